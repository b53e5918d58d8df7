"""Programs in words: what a person would say who reads the drawing.

Positions are in the part's coordinates, wherever a sketch has its own: of a profile, unless it is around the origin of
an axis-parallel plane, and of holes, unless they are in the profile's middle.
"""

import math
from collections import Counter
from collections.abc import Iterator

from pipeline.cad.language.planar import SMOOTH, corners, merged
from pipeline.cad.language.program import (
    Arc,
    CadProgram,
    Circle,
    Extent,
    ExtentKind,
    Extrude,
    Loop,
    Operation,
    Plane,
    Point2,
    Profile,
    Sketch,
    Vec3,
    axis_of,
)
from pipeline.cad.parts.captions import NUMBERS, article, count

VERBS = {
    Operation.NEW: "new body",
    Operation.JOIN: "join",
    Operation.CUT: "cut",
    Operation.INTERSECT: "intersect",
}
PLANES = ("YZ", "ZX", "XY")
MOST_PLACES = 4  # that are listed
NEAR = 1e-6  # metres: places that are one
SHAPES = {3: "triangle", 5: "pentagon", 6: "hexagon", 8: "octagon"}


def describe(program: CadProgram) -> list[str]:
    """One line for each extrusion, lengths in millimetres of a program in metres."""
    return [f"{number}. {describe_extrude(extrude)}" for number, extrude in enumerate(program.extrudes, 1)]


def describe_extrude(extrude: Extrude) -> str:
    """One extrusion: operation, profiles, plane, extent."""
    parts = []
    for sketch in extrude.sketches:
        profiles = ", ".join(_profiles(sketch))
        parts.append(f"{profiles} on {describe_plane(sketch.plane)}")
    return f"{VERBS[extrude.operation]}: {'; '.join(parts)}, {describe_extent(extrude.extent)}"


def describe_plane(plane: Plane) -> str:
    """``the XY plane at z = 12``, or the normal of an oblique one; a reversed normal is said."""
    if along := axis_of(plane.normal):
        axis, sign = along
        name, height = "xyz"[axis], plane.origin[axis]
        reverse = "" if sign > 0 else ", facing down" if name == "z" else f", facing -{name}"
        at = f" at {name} = {millimetres(height)}" if abs(height) > 1e-6 else ""
        return f"the {PLANES[axis]} plane{at}{reverse}"
    x, y, z = plane.normal
    return f"an oblique plane with normal ({x:.3f}, {y:.3f}, {z:.3f})"


def describe_extent(extent: Extent) -> str:
    """How far, and which way."""
    match extent.kind:
        case ExtentKind.SYMMETRIC:
            return f"{millimetres(abs(extent.one))} mm to either side"
        case ExtentKind.TWO_SIDED:
            return f"{millimetres(extent.one)} mm one way and {millimetres(extent.two)} mm the other"
        case ExtentKind.ONE_SIDED:
            way = " against the normal" if extent.one < 0 else ""
            return f"{millimetres(abs(extent.one))} mm{way}"


def _profiles(sketch: Sketch) -> Iterator[str]:
    """Outer loops, where they are, and their holes; those that are alike together."""
    alike: dict[tuple[str, str], list[Point2]] = {}
    for profile in sketch.profiles:
        texts = describe_loop(profile.outer), _holes(profile, sketch.plane)
        alike.setdefault(texts, []).append(_middle(profile.outer))
    for (outer, holes), at in alike.items():
        told = len(at) > 1 or not _is_around_origin(at[0], sketch.plane)
        where = f" at {_places(at, sketch.plane)}" if told else ""
        yield (f"{len(at)} x {outer}" if len(at) > 1 else article(outer)) + where + holes


def _holes(profile: Profile, plane: Plane) -> str:
    """`` with two holes (6 mm circle at (12, 0, 8) and (-12, 0, 8))``."""
    alike: dict[str, list[Point2]] = {}
    for hole in profile.holes:
        alike.setdefault(describe_loop(hole), []).append(_middle(hole))
    shown = []
    for text, at in alike.items():
        told = len(at) > 1 or math.dist(at[0], _middle(profile.outer)) > NEAR
        shown.append(f"{exactly(len(at), 'hole')} ({text}{f' at {_places(at, plane)}' if told else ''})")
    return f" with {' and '.join(shown)}" if shown else ""


def _places(points: list[Point2], plane: Plane) -> str:
    """``(12, 0, 8) and (-12, 0, 8)``: points of a sketch in the part's coordinates."""
    shown = [f"({', '.join(map(_coordinate, plane.to_world(point)))})" for point in points]
    if len(shown) > MOST_PLACES:
        return f"{', '.join(shown[:MOST_PLACES])} and {len(shown) - MOST_PLACES} more"
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)


def _coordinate(value: float) -> str:
    return millimetres(round(value, 6))


def _middle(loop: Loop) -> Point2:
    """The middle of a loop's box."""
    first = loop.curves[0]
    if isinstance(first, Circle):
        return first.centre
    xs, ys = zip(*loop.outline(), strict=True)
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2


def _is_around_origin(point: Point2, plane: Plane) -> bool:
    """Whether a sketch's point is the part's origin, seen along the normal of an axis-parallel plane."""
    along = axis_of(plane.normal)
    at: Vec3 = plane.to_world(point)
    return along is not None and all(abs(part) < NEAR for axis, part in enumerate(at) if axis != along[0])


def describe_loop(loop: Loop) -> str:
    """``40 x 20 mm rectangle, rounded 5 mm``."""
    loop = merged(loop, SMOOTH)
    first = loop.curves[0]
    if isinstance(first, Circle):
        return f"{millimetres(2 * first.radius)} mm circle"
    outline = loop.outline()
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    box = f"{millimetres(max(xs) - min(xs))} x {millimetres(max(ys) - min(ys))} mm"
    points = corners(loop)
    radii = sorted({millimetres(corner.radius) for corner in points if corner.radius}, key=float)
    rounded = f", rounded {' and '.join(radii)} mm" if radii else ""
    arcs = sum(bool(corner.sweep) for corner in points)
    if arcs:
        lines = len(points) - arcs
        halves = [edge for edge in loop.edges if isinstance(edge, Arc) and abs(abs(edge.sweep) - math.pi) < 1e-3]
        if len(points) == 4 and arcs == len(halves) == 2:
            return f"{box} slot{rounded}"
        return f"{box} outline of {exactly(lines, 'line')} and {exactly(arcs, 'arc')}{rounded}"
    if len(points) == 4:
        return f"{box} {_quadrilateral([corner.at for corner in points])}{rounded}"
    return f"{box} {SHAPES.get(len(points), f'{len(points)}-cornered outline')}{rounded}"


def _quadrilateral(points: list[tuple[float, float]]) -> str:
    sides = [math.dist(points[i - 1], points[i]) for i in range(4)]
    diagonals = math.dist(points[0], points[2]), math.dist(points[1], points[3])
    size = max(diagonals)

    def same(a: float, b: float) -> bool:
        return abs(a - b) < 1e-4 * size

    if same(*diagonals) and same(sides[0], sides[2]) and same(sides[1], sides[3]):
        return "square" if same(sides[0], sides[1]) else "rectangle"
    return "quadrilateral"


def exactly(number: int, noun: str) -> str:
    """``four holes``, ``24 holes``."""
    return count(number, noun) if number < len(NUMBERS) else f"{number} {noun}s"


def millimetres(length: float) -> str:
    """A length in metres as millimetres, with four digits at most behind which there is no other."""
    if abs(length) <= 1e-12:
        return "0"
    value = length * 1000
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def sentence(program: CadProgram) -> str:
    """A caption from the program alone: what it is built from, without sizes."""
    bodies = Counter(
        _plain(profile)
        for extrude in program.extrudes
        if extrude.operation in (Operation.NEW, Operation.JOIN)
        for sketch in extrude.sketches
        for profile in sketch.profiles
    )
    cuts = sum(
        len(sketch.profiles)
        for extrude in program.extrudes
        if extrude.operation is Operation.CUT
        for sketch in extrude.sketches
    )
    listed = [article(name) if number == 1 else count(number, name) for name, number in sorted(bodies.items())]
    text = listed[0] if len(listed) == 1 else ", ".join(listed[:-1]) + " and " + listed[-1]
    cut = f", with {count(cuts, 'cut')}" if cuts else ""
    return f"Generate a CAD model made of {text}{cut}."


def _plain(profile: Profile) -> str:
    """The kind of prism that a profile makes."""
    loop = merged(profile.outer, SMOOTH)
    if isinstance(loop.curves[0], Circle):
        return "ring" if profile.holes else "cylinder"
    points = corners(loop)
    sharp = not any(corner.radius for corner in points)
    plain = len(points) == 4 and not any(corner.sweep for corner in points)
    if plain and _quadrilateral([corner.at for corner in points]) != "quadrilateral":
        name = "block" if sharp else "rounded block"
    else:
        name = "prism"
    return f"{name} with {count(len(profile.holes), 'hole')}" if profile.holes else name
