"""Programs in whole steps of a lattice: the canonical form that tokens write down.

Planes parallel to the frame's axes use its own coordinates, extents become the interval along the normal, edges
that go on as one are one, loops run counter-clockwise from their lowest corner, and profiles are sorted.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.cad.language.lattice import Group, Lattice
from pipeline.cad.language.planar import Corner, corners, cross_or_touch, fit, loop_of, merged, turn_of
from pipeline.cad.language.program import (
    Circle,
    Extrude,
    Loop,
    Operation,
    Plane,
    Point2,
    Profile,
    Sketch,
    Vec3,
    cross,
    dot,
    map_sketch,
)
from pipeline.cad.language.tokens import FINE, TOKEN, Vocabulary
from pipeline.runtime.errors import RejectError

AXIS_PLANES = {
    "XY": Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "YZ": Plane((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    "ZX": Plane((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
}
# World axes of a plane's own two axes and its normal.
WORLD_AXES = {"XY": (0, 1, 2), "YZ": (1, 2, 0), "ZX": (2, 0, 1)}
PARALLEL = 1e-4  # a normal this close to an axis is the axis


@dataclass(frozen=True, slots=True, order=True)
class Ring:
    """A circle in whole steps: places in fine steps, the radius in halves of them."""

    radius: int
    x: int
    y: int


@dataclass(frozen=True, slots=True, order=True)
class Outline:
    """A loop in whole steps: for each corner x, y, fillet radius, and sweep of the edge that leaves it."""

    corners: tuple[tuple[int, int, int, int], ...]


Shape = Ring | Outline


@dataclass(frozen=True, slots=True)
class Prism:
    """One sketch of an extrusion in whole steps; each profile is an outer shape and its holes."""

    operation: Operation
    plane: tuple[int, ...]
    low: int
    high: int
    profiles: tuple[tuple[Shape, tuple[Shape, ...]], ...]


ADDING = (Operation.NEW, Operation.JOIN)
# Operation, sketch in the coordinates of its canonical plane, the plane's name or None, interval.
Flat = tuple[Operation, Sketch, str | None, tuple[float, float]]


def flatten(extrude: Extrude) -> Iterable[Flat]:
    """An extrusion's sketches on canonical planes through the origin, loops merged and counter-clockwise."""
    if extrude.operation is Operation.INTERSECT and len(extrude.sketches) > 1:
        raise RejectError("unsupported_sequence", "an intersection with profiles of several sketches")
    for sketch in extrude.sketches:
        name, plane = _canonical_plane(sketch.plane.normal)
        flat, span = _reframe(sketch, extrude.extent.interval, plane)
        profiles = tuple(
            Profile(_oriented(profile.outer), tuple(_oriented(hole) for hole in profile.holes))
            for profile in flat.profiles
        )
        yield extrude.operation, Sketch(plane, profiles), name, span


def _oriented(loop: Loop) -> Loop:
    loop = merged(loop)
    return loop if loop.signed_area > 0 else loop.reversed()


def prism_volume(sketch: Sketch, span: tuple[float, float]) -> float:
    """Volume of a flattened sketch's prisms, overlaps counted twice."""
    return (span[1] - span[0]) * sum(_area(profile) for profile in sketch.profiles)


def _area(profile: Profile) -> float:
    return abs(profile.outer.signed_area) - sum(abs(hole.signed_area) for hole in profile.holes)


def _perimeter(loop: Loop) -> float:
    points = loop.outline(4)
    return sum(math.dist(points[i - 1], point) for i, point in enumerate(points))


def _canonical_plane(normal: Vec3) -> tuple[str | None, Plane]:
    """The plane through the origin that is parallel to a sketch, and its name where it has one."""
    for name, plane in AXIS_PLANES.items():
        if abs(dot(plane.normal, normal)) > 1 - PARALLEL**2 / 2:
            return name, plane
    x, y, z = normal
    # One of the two directions: polar angle up to a right angle.
    if z < -PARALLEL or (abs(z) <= PARALLEL and (y, x) < (0.0, 0.0)):
        x, y, z = -x, -y, -z
    return None, oblique_plane((x, y, z))


def oblique_plane(normal: Vec3) -> Plane:
    """The canonical plane through the origin with this unit normal: its first axis is level."""
    length = math.hypot(normal[0], normal[1])
    x_axis = (-normal[1] / length, normal[0] / length, 0.0) if length > 1e-9 else (1.0, 0.0, 0.0)
    return Plane((0.0, 0.0, 0.0), x_axis, normal)


def _reframe(sketch: Sketch, interval: tuple[float, float], plane: Plane) -> tuple[Sketch, tuple[float, float]]:
    """The sketch in the coordinates of a parallel plane through the origin, and its interval along that normal."""
    source = sketch.plane
    mirrored = dot(source.normal, plane.normal) < 0
    x, y = plane.x_axis, plane.y_axis
    # 2D affine map, from the images of the source's origin and axes.
    o = (dot(source.origin, x), dot(source.origin, y))
    a = (dot(source.x_axis, x), dot(source.x_axis, y))
    b_axis = cross(source.normal, source.x_axis)
    b = (dot(b_axis, x), dot(b_axis, y))

    def move(p: Point2) -> Point2:
        return (o[0] + p[0] * a[0] + p[1] * b[0], o[1] + p[0] * a[1] + p[1] * b[1])

    height = dot(source.origin, plane.normal)
    low, high = interval if not mirrored else (-interval[1], -interval[0])
    return map_sketch(sketch, plane, move, mirrored=mirrored), (height + low, height + high)


class Layout:
    """One pass over a program: its numbers on the lattice, and the groups of numbers where that went wrong."""

    def __init__(self, lattice: Lattice, checked: bool = True) -> None:
        self.lattice, self.checked = lattice, checked
        self.faults: set[Group] = set()
        lattice.forget()

    def prisms(self, flat: list[Flat]) -> list[Prism]:
        """Every sketch in whole steps. Raises ``RejectError`` (``out_of_range``)."""
        return [self._prism(number, *each) for number, each in enumerate(flat)]

    def _prism(
        self, number: int, operation: Operation, sketch: Sketch, name: str | None, span: tuple[float, float]
    ) -> Prism:
        lattice, height = self.lattice, span[1] - span[0]
        if name is None:
            plane, axes = self._oblique(sketch, height)
        else:
            plane, axes = (TOKEN[name],), tuple((axis,) for axis in WORLD_AXES[name])
        lattice.watch()
        area = sum(_area(profile) for profile in sketch.profiles)
        low, high = (lattice.place(axes[2], end, area) for end in span)
        if high <= low:
            self.faults |= lattice.used
            high = lattice.above(low)
        laid_out = [self._profile(profile, axes, height) for profile in sketch.profiles]
        profiles = sorted((each for each in laid_out if each is not None), key=_profile_key)
        shown = Operation.NEW if number == 0 else operation
        return Prism(shown, plane, low, high, tuple(profiles))

    def _oblique(self, sketch: Sketch, height: float) -> tuple[tuple[int, ...], tuple[Group, ...]]:
        x, y, z = sketch.plane.normal
        # About what moves when the plane turns: half of the surface.
        loops = [loop for profile in sketch.profiles for loop in profile.loops]
        surface = sum(abs(loop.signed_area) + height / 2 * _perimeter(loop) for loop in loops)
        polar = self.lattice.angle(math.acos(min(1.0, max(0.0, z))), surface)
        half_turn = self.lattice.vocabulary.turn // 2 * FINE
        azimuth = self.lattice.angle(math.atan2(y, x), surface)
        azimuth = azimuth if azimuth > -half_turn else half_turn
        polar = min(polar, self.lattice.vocabulary.turn // 4 * FINE)
        return (TOKEN["OBLIQUE"], polar, azimuth), tuple((polar, azimuth, axis) for axis in range(3))

    def _profile(
        self, profile: Profile, axes: tuple[Group, ...], height: float
    ) -> tuple[Shape, tuple[Shape, ...]] | None:
        """The outer shape and the holes; None where no area is left."""
        lattice = self.lattice
        lattice.watch()
        loops = [self._shape(loop, axes, height) for loop in profile.loops]
        if None in loops:
            self.faults |= lattice.used
        outer, *holes = loops
        if outer is None:
            return None
        kept = sorted((shape for shape in holes if shape is not None), key=_sort_key)
        if self.checked and cross_or_touch(
            [shape_loop(shape, lattice.fine_step, lattice.vocabulary) for shape in (outer, *kept)]
        ):
            self.faults |= lattice.used
        return outer, tuple(kept)

    def _shape(self, loop: Loop, axes: tuple[Group, ...], height: float) -> Shape | None:
        lattice = self.lattice
        first = loop.curves[0]
        if isinstance(first, Circle):
            (x, y), r = first.centre, first.radius
            radius = lattice.radius(r, 2 * math.pi * r * height)
            # A disc that moves uncovers and covers two radii's width on either side.
            across, along = (lattice.place(axis, at, 4 * r * height) for axis, at in zip(axes, (x, y), strict=False))
            return Ring(radius, across, along)
        for fillets in (True, False):
            points, fits = _tidy(self._corners(corners(loop, fillets), axes, height)), True
            if fillets and any(radius for _, _, radius, _ in points):
                fits = _has_room(points)
                if not fits and not lattice.used <= lattice.refined:
                    self.faults |= lattice.used
                    break
            if fits:
                break
        if len(points) < 2 or (len(points) == 2 and not any(sweep for *_, sweep in points)):
            return None
        if len({(x, y) for x, y, *_ in points}) < len(points):
            self.faults |= lattice.used
            if lattice.used <= lattice.refined:
                return None  # touches itself: a sliver that the lattice has closed
        begin = min(range(len(points)), key=lambda i: (points[i][1], points[i][0]))
        return Outline(tuple(points[begin:] + points[:begin]))

    def _corners(self, loop: list[Corner], axes: tuple[Group, ...], height: float) -> list[tuple[int, int, int, int]]:
        lattice = self.lattice
        out = []
        for i, corner in enumerate(loop):
            (x, y), (x0, y0), (x1, y1) = corner.at, loop[i - 1].at, loop[(i + 1) % len(loop)].at
            # Half of what the two edges would sweep.
            place_x = lattice.place(axes[0], x, (abs(y - y0) + abs(y1 - y)) / 2 * height)
            place_y = lattice.place(axes[1], y, (abs(x - x0) + abs(x1 - x)) / 2 * height)
            radius = sweep = 0
            if corner.radius:
                turn = abs(turn_of((x0, y0), corner.at, (x1, y1)))
                spared = 2 * corner.radius * (math.tan(min(turn, 3.0) / 2) - turn / 2)
                radius = lattice.radius(corner.radius, spared * height)
            if corner.sweep:
                chord = math.dist(corner.at, (x1, y1))
                step = 1e-4
                bulge = _segment(chord, abs(corner.sweep) + step) - _segment(chord, abs(corner.sweep))
                sweep = lattice.angle(corner.sweep, abs(bulge) / step * height)
                limit = lattice.vocabulary.turn * FINE - 1
                sweep = max(-limit, min(limit, sweep))
            out.append((place_x, place_y, radius, sweep))
        return out


def _segment(chord: float, sweep: float) -> float:
    """Area between a chord and its arc."""
    radius = chord / (2 * math.sin(sweep / 2))
    return radius**2 * (sweep - math.sin(sweep)) / 2


def _sort_key(shape: Shape) -> tuple[int, ...]:
    if isinstance(shape, Ring):
        return (0, shape.radius, shape.x, shape.y)
    return (1, *(n for corner in shape.corners for n in corner))


def _profile_key(profile: tuple[Shape, tuple[Shape, ...]]) -> tuple[int, ...]:
    outer, holes = profile
    return tuple(n for shape in (outer, *holes) for n in _sort_key(shape))


def _tidy(points: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Without edges that lost their length, and without corners on a straight line."""
    while True:
        kept = [p for i, p in enumerate(points) if p[:2] != points[(i + 1) % len(points)][:2]]
        straight = [
            i
            for i, (x, y, radius, sweep) in enumerate(kept)
            if not sweep and not kept[i - 1][3] and _between(kept[i - 1], (x, y), kept[(i + 1) % len(kept)])
        ]
        if len(kept) == len(points) and not straight:
            return kept
        points = kept[: straight[0]] + kept[straight[0] + 1 :] if straight else kept
        if len(points) < 2:
            return points


def _between(before: Sequence[int], at: tuple[int, int], after: Sequence[int]) -> bool:
    ux, uy, vx, vy = at[0] - before[0], at[1] - before[1], after[0] - at[0], after[1] - at[1]
    return ux * vy == uy * vx and ux * vx + uy * vy > 0


def _has_room(points: list[tuple[int, int, int, int]]) -> bool:
    """Whether every fillet lies between lines and leaves something of them."""
    loop = [Corner((float(x), float(y)), radius / 2 * (1 + 1e-6), float(sweep)) for x, y, radius, sweep in points]
    smooth = all(not (radius and (sweep or points[i - 1][3])) for i, (_, _, radius, sweep) in enumerate(points))
    return smooth and min(fit(loop)) == 1.0


def shape_loop(shape: Shape, fine_step: float, vocabulary: Vocabulary) -> Loop:
    """A shape in whole steps as a loop in the normalised frame."""
    if isinstance(shape, Ring):
        return Loop((Circle((shape.x * fine_step, shape.y * fine_step), shape.radius * fine_step / 2),))
    turn = 2 * math.pi / (vocabulary.turn * FINE)
    return loop_of(
        [
            Corner((x * fine_step, y * fine_step), radius * fine_step / 2, sweep * turn)
            for x, y, radius, sweep in shape.corners
        ]
    )
