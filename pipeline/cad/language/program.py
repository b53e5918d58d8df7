"""CAD programs as immutable values: sketches of closed loops, extruded and combined.

A program is what Omni-CAD calls a construction sequence, reduced to what makes geometry. Lengths are in
the unit of their source (metres for Omni-CAD); angles are in radians.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

Point2 = tuple[float, float]
Vec3 = tuple[float, float, float]


def dot(a: Vec3, b: Vec3) -> float:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vec3, b: Vec3) -> Vec3:
    """Vector product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def axis_of(direction: Vec3, noise: float = 1e-3) -> tuple[int, int] | None:
    """Along which of x, y and z (0, 1, 2) a unit vector lies, and its sign there; None where it is oblique.

    Args:
        noise: its other parts are at most so large.
    """
    for axis, part in enumerate(direction):
        if max(abs(direction[axis - 1]), abs(direction[axis - 2])) <= noise:
            return axis, 1 if part > 0 else -1
    return None


@dataclass(frozen=True, slots=True)
class Line:
    """A straight edge."""

    start: Point2
    end: Point2

    def reversed(self) -> "Line":
        """The same edge from its end to its start."""
        return Line(self.end, self.start)


@dataclass(frozen=True, slots=True)
class Arc:
    """A circular edge. ``sweep`` is signed: counter-clockwise is positive, 0 < |sweep| < 2 pi."""

    start: Point2
    end: Point2
    centre: Point2
    sweep: float

    @classmethod
    def through(cls, start: Point2, end: Point2, sweep: float) -> "Arc":
        """The arc from ``start`` to ``end`` that turns by ``sweep``."""
        # The centre lies on the chord's bisector, chord / (2 tan(sweep / 2)) to its left.
        offset = 0.5 / math.tan(sweep / 2)
        dx, dy = end[0] - start[0], end[1] - start[1]
        centre = ((start[0] + end[0]) / 2 - dy * offset, (start[1] + end[1]) / 2 + dx * offset)
        return cls(start, end, centre, sweep)

    @property
    def radius(self) -> float:
        """In the sketch's unit."""
        return math.dist(self.start, self.centre)

    def at(self, fraction: float) -> Point2:
        """The point at ``fraction`` (0 to 1) of the way from start to end."""
        angle = math.atan2(self.start[1] - self.centre[1], self.start[0] - self.centre[0]) + fraction * self.sweep
        radius = self.radius
        return (self.centre[0] + radius * math.cos(angle), self.centre[1] + radius * math.sin(angle))

    def reversed(self) -> "Arc":
        """The same edge from its end to its start; the sweep changes its sign."""
        return Arc(self.end, self.start, self.centre, -self.sweep)


@dataclass(frozen=True, slots=True)
class Circle:
    """A full circle: a loop by itself."""

    centre: Point2
    radius: float


Edge = Line | Arc
Curve = Line | Arc | Circle


@dataclass(frozen=True, slots=True)
class Loop:
    """A closed chain: one circle, or edges head to tail."""

    curves: tuple[Curve, ...]

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges of a loop that is not a circle."""
        return tuple(curve for curve in self.curves if not isinstance(curve, Circle))

    @property
    def signed_area(self) -> float:
        """Enclosed area; negative where the loop runs clockwise."""
        first = self.curves[0]
        if isinstance(first, Circle):
            return math.pi * first.radius**2
        total = 0.0
        for edge in self.edges:
            (x0, y0), (x1, y1) = edge.start, edge.end
            total += (x0 * y1 - x1 * y0) / 2
            if isinstance(edge, Arc):  # the segment between chord and arc
                total += edge.radius**2 * (edge.sweep - math.sin(edge.sweep)) / 2
        return total

    def outline(self, arc_segments: int = 16) -> list[Point2]:
        """The loop as a polygon, arcs cut into ``arc_segments`` pieces."""
        first = self.curves[0]
        if isinstance(first, Circle):
            steps = [2 * math.pi * i / (4 * arc_segments) for i in range(4 * arc_segments)]
            (x, y), r = first.centre, first.radius
            return [(x + r * math.cos(a), y + r * math.sin(a)) for a in steps]
        points: list[Point2] = []
        for edge in self.edges:
            pieces = arc_segments if isinstance(edge, Arc) else 1
            points += [edge.start if i == 0 else edge.at(i / pieces) for i in range(pieces)]  # type: ignore[union-attr]
        return points

    def reversed(self) -> "Loop":
        """The same loop the other way round; a circle has no way, and stays."""
        if isinstance(self.curves[0], Circle):
            return self
        return Loop(tuple(edge.reversed() for edge in reversed(self.edges)))


@dataclass(frozen=True, slots=True)
class Profile:
    """A region of a sketch: an outer loop less its holes."""

    outer: Loop
    holes: tuple[Loop, ...] = ()

    @property
    def loops(self) -> tuple[Loop, ...]:
        """The outer loop, then the holes."""
        return (self.outer, *self.holes)


@dataclass(frozen=True, slots=True)
class Plane:
    """A sketch plane: origin and two orthonormal axes; the third follows by the right-hand rule."""

    origin: Vec3
    x_axis: Vec3
    normal: Vec3

    @property
    def y_axis(self) -> Vec3:
        """The second axis in the plane."""
        return cross(self.normal, self.x_axis)

    def to_world(self, point: Point2, height: float = 0.0) -> Vec3:
        """The point of space at 2D ``point`` and ``height`` along the normal."""
        x, y, z, o = self.x_axis, self.y_axis, self.normal, self.origin
        u, v = point
        return (
            o[0] + u * x[0] + v * y[0] + height * z[0],
            o[1] + u * x[1] + v * y[1] + height * z[1],
            o[2] + u * x[2] + v * y[2] + height * z[2],
        )


@dataclass(frozen=True, slots=True)
class Sketch:
    """A plane and the profiles on it that an extrusion uses."""

    plane: Plane
    profiles: tuple[Profile, ...]


class Operation(StrEnum):
    """How an extrusion combines with what is already there."""

    NEW = "new"
    JOIN = "join"
    CUT = "cut"
    INTERSECT = "intersect"


class ExtentKind(StrEnum):
    """Where an extrusion ends, measured from its sketch plane along the normal."""

    ONE_SIDED = "one_sided"
    SYMMETRIC = "symmetric"
    TWO_SIDED = "two_sided"


@dataclass(frozen=True, slots=True)
class Extent:
    """Distances of an extrusion. ``two`` counts against the normal, for two-sided extents alone."""

    kind: ExtentKind
    one: float
    two: float = 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lowest and highest position along the normal. Symmetric means ``one`` on each side, as in Omni-CAD."""
        match self.kind:
            case ExtentKind.ONE_SIDED:
                return min(0.0, self.one), max(0.0, self.one)
            case ExtentKind.SYMMETRIC:
                return -abs(self.one), abs(self.one)
            case ExtentKind.TWO_SIDED:
                return min(0.0, self.one, -self.two), max(0.0, self.one, -self.two)


@dataclass(frozen=True, slots=True)
class Extrude:
    """Profiles, mostly of one sketch, swept along their normals and combined with the body."""

    sketches: tuple[Sketch, ...]
    operation: Operation
    extent: Extent


@dataclass(frozen=True, slots=True)
class Frame:
    """The similarity between a model's own coordinates and the normalised frame, where the solid's bounding
    box is centred on the origin and its longest half-side is 1."""

    centre: Vec3
    scale: float

    @classmethod
    def of_box(cls, low: Vec3, high: Vec3) -> "Frame":
        """The frame that a bounding box defines."""
        centre = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
        return cls(centre, max(high[i] - low[i] for i in range(3)) / 2)


@dataclass(frozen=True, slots=True)
class CadProgram:
    """A whole model: extrusions in order."""

    extrudes: tuple[Extrude, ...]

    def normalised(self, frame: Frame) -> "CadProgram":
        """The program in ``frame``'s normalised coordinates."""
        return self._similar(1 / frame.scale, (-frame.centre[0], -frame.centre[1], -frame.centre[2]))

    def restored(self, frame: Frame) -> "CadProgram":
        """A normalised program at true scale and place."""
        s = 1 / frame.scale
        return self._similar(frame.scale, (frame.centre[0] * s, frame.centre[1] * s, frame.centre[2] * s))

    def scaled(self, factor: float) -> "CadProgram":
        """The program in another unit."""
        return self._similar(factor, (0.0, 0.0, 0.0))

    def _similar(self, scale: float, shift: Vec3) -> "CadProgram":
        """Shift by ``shift``, then scale."""

        def sketch_of(sketch: Sketch) -> Sketch:
            o = sketch.plane.origin
            origin = ((o[0] + shift[0]) * scale, (o[1] + shift[1]) * scale, (o[2] + shift[2]) * scale)
            return map_sketch(
                sketch, replace(sketch.plane, origin=origin), lambda p: (p[0] * scale, p[1] * scale), scale
            )

        return CadProgram(
            tuple(
                Extrude(
                    tuple(sketch_of(sketch) for sketch in extrude.sketches),
                    extrude.operation,
                    replace(extrude.extent, one=extrude.extent.one * scale, two=extrude.extent.two * scale),
                )
                for extrude in self.extrudes
            )
        )

    @property
    def num_curves(self) -> int:
        """Lines, arcs and circles of all extrusions."""
        return sum(
            len(loop.curves)
            for extrude in self.extrudes
            for sketch in extrude.sketches
            for profile in sketch.profiles
            for loop in profile.loops
        )


def map_loop(loop: Loop, move: Callable[[Point2], Point2], scale: float = 1.0, mirrored: bool = False) -> Loop:
    """The loop with every point moved; radii scale, and sweeps change sign where ``mirrored``."""

    def curve_of(curve: Curve) -> Curve:
        match curve:
            case Line(start, end):
                return Line(move(start), move(end))
            case Arc(start, end, centre, sweep):
                return Arc(move(start), move(end), move(centre), -sweep if mirrored else sweep)
            case Circle(centre, radius):
                return Circle(move(centre), radius * scale)

    return Loop(tuple(curve_of(curve) for curve in loop.curves))


def map_sketch(
    sketch: Sketch, plane: Plane, move: Callable[[Point2], Point2], scale: float = 1.0, mirrored: bool = False
) -> Sketch:
    """The sketch on ``plane``, every loop of it as ``map_loop`` has it."""

    def loop_of(loop: Loop) -> Loop:
        return map_loop(loop, move, scale, mirrored)

    return Sketch(
        plane,
        tuple(Profile(loop_of(p.outer), tuple(loop_of(hole) for hole in p.holes)) for p in sketch.profiles),
    )
