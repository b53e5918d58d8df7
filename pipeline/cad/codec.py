"""Programs to token ids and back, on the lattice of the normalised frame.

Encoding is canonical: planes parallel to the frame's axes use its own coordinates, extents become the
interval along the normal, loops run counter-clockwise from their lowest corner, and profiles are sorted. The
grammar is in ``grammar``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cad.grammar import (
    FAR_FACTOR,
    NUM_COMMANDS,
    OPERATION_TOKENS,
    PLANES,
    TOKEN,
    Grammar,
    GrammarError,
    State,
)
from pipeline.cad.program import (
    Arc,
    CadProgram,
    Circle,
    Edge,
    Extent,
    ExtentKind,
    Extrude,
    Line,
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
from pipeline.errors import RejectError

AXIS_PLANES = {
    "XY": Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "YZ": Plane((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    "ZX": Plane((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
}
PARALLEL = 1e-4  # a normal this close to an axis is the axis
NAMES = {token: name for name, token in TOKEN.items()}


@dataclass(frozen=True)
class Codec:
    """Encoder and decoder for values of ``bits`` bits (6 to 12)."""

    bits: int

    @property
    def grammar(self) -> Grammar:
        return Grammar(self.bits)

    @property
    def step(self) -> float:
        """Distance of neighbouring lattice points; -1, 0 and 1 are lattice points."""
        return 2 / ((1 << self.bits) - 2)

    def encode(self, program: CadProgram) -> np.ndarray:
        """Token ids, END included: (T,) uint16.

        Args:
            program: in the normalised frame.

        Raises:
            RejectError: ``out_of_range``, ``quantised_away`` or ``unsupported_sequence``.
        """
        tokens: list[int] = []
        for number, extrude in enumerate(program.extrudes):
            tokens += self._encode_extrude(extrude, first=number == 0)
        return np.array([*tokens, TOKEN["END"]], np.uint16)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> CadProgram:
        """The normalised program that a sequence writes.

        Raises:
            RejectError: ``ungrammatical`` or ``incomplete``.
        """
        return _Decoder(self, [int(token) for token in tokens]).program()

    # -- encoding ----------------------------------------------------------------------------------------

    def _encode_extrude(self, extrude: Extrude, first: bool) -> list[int]:
        if extrude.operation is Operation.INTERSECT and len(extrude.sketches) > 1:
            raise RejectError("unsupported_sequence", "an intersection with profiles of several sketches")
        tokens: list[int] = []
        for sketch in extrude.sketches:
            plane, plane_tokens = self._plane(sketch.plane.normal)
            flat, (low, high) = _reframe(sketch, extrude.extent.interval, plane)
            operation = Operation.NEW if first and not tokens else extrude.operation
            profiles = sorted(tokens_of for p in flat.profiles if (tokens_of := self._encode_profile(p)))
            if not profiles:
                raise RejectError("quantised_away", f"an extrusion has no area left at {self.bits} bits")
            tokens += [TOKEN[OPERATION_TOKENS[operation]], *plane_tokens, *self._interval(low, high)]
            tokens += [token for profile in profiles for token in profile]
        return tokens

    def _plane(self, normal: Vec3) -> tuple[Plane, list[int]]:
        """The canonical plane through the origin that is parallel to a sketch, and its tokens."""
        for name, plane in AXIS_PLANES.items():
            if abs(dot(plane.normal, normal)) > 1 - PARALLEL**2 / 2:
                return plane, [TOKEN[name]]
        x, y, z = normal
        # One of the two directions: polar angle up to a right angle.
        if z < -PARALLEL or (abs(z) <= PARALLEL and (y, x) < (0.0, 0.0)):
            x, y, z = -x, -y, -z
        half = self.grammar.half
        polar = min(half, round(math.acos(min(1.0, max(0.0, z))) / (math.pi / 2) * half))
        azimuth = round(math.atan2(y, x) / math.pi * half)
        azimuth = azimuth if azimuth < half else -half + 1
        levels = (polar, max(1, azimuth + half))
        return oblique_plane((x, y, z)), [TOKEN["OBLIQUE"], *(self.grammar.value(level) for level in levels)]

    def _interval(self, low: float, high: float) -> list[int]:
        bottom, top = round(low / self.step), round(high / self.step)
        if top <= bottom:  # thinner than a step: keep the middle, make it one step
            bottom = math.floor((low + high) / 2 / self.step)
            top = bottom + 1
        tokens = self._position(bottom)
        far = abs(top) >= self.grammar.half
        if far and round(top / FAR_FACTOR) * FAR_FACTOR <= bottom:
            top = (bottom // FAR_FACTOR + 1) * FAR_FACTOR
        return tokens + self._position(top)

    def _position(self, steps: int) -> list[int]:
        """Tokens of a position given in lattice steps."""
        half = self.grammar.half
        if abs(steps) < half:
            return [self.grammar.value(steps + half)]
        coarse = round(steps / FAR_FACTOR)
        if abs(coarse) >= half:
            raise RejectError("out_of_range", f"a position {abs(steps) * self.step:.1f} half-sizes away")
        return [TOKEN["FAR"], self.grammar.value(coarse + half)]

    def _snap(self, point: Point2) -> tuple[int, int]:
        """The lattice point that the tokens of a position will say."""

        def snap(x: float) -> int:
            steps = round(x / self.step)
            return steps if abs(steps) < self.grammar.half else round(steps / FAR_FACTOR) * FAR_FACTOR

        return snap(point[0]), snap(point[1])

    def _encode_profile(self, profile: Profile) -> list[int]:
        outer = self._encode_loop(profile.outer, "")
        if not outer:
            return []
        holes = sorted(hole for loop in profile.holes if (hole := self._encode_loop(loop, "HOLE_")))
        return outer + [token for hole in holes for token in hole]

    def _encode_loop(self, loop: Loop, prefix: str) -> list[int]:
        """The loop's tokens, or none where it has no area on the lattice."""
        first = loop.curves[0]
        if isinstance(first, Circle):
            return self._encode_circle(first, prefix)
        edges = self._lattice_edges(loop if loop.signed_area > 0 else loop.reversed())
        if len(edges) < 2 or (len(edges) == 2 and all(sweep == 0 for _, sweep in edges)):
            return []
        points = [point for point, _ in edges]
        if len(edges) == 4 and all(sweep == 0 for _, sweep in edges):
            (x0, y0), (x1, y1) = np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist()
            if {(x0, y0), (x1, y0), (x1, y1), (x0, y1)} == set(points):
                places = [token for steps in (x0, y0, x1, y1) for token in self._position(steps)]
                return [TOKEN[f"{prefix}RECTANGLE"], *places]
        return [TOKEN[f"{prefix}LOOP"], *self._encode_edges(edges)]

    def _encode_circle(self, circle: Circle, prefix: str) -> list[int]:
        x, y = self._snap(circle.centre)
        radius = max(1, round(circle.radius / self.step * 2))  # in half steps, so that diameters are steps
        top = self.grammar.levels - 1
        if radius <= top:
            size = [self.grammar.value(radius)]
        elif round(radius / FAR_FACTOR) <= top:
            size = [TOKEN["FAR"], self.grammar.value(round(radius / FAR_FACTOR))]
        else:
            raise RejectError("out_of_range", f"a radius of {circle.radius:.1f} half-sizes")
        return [TOKEN[f"{prefix}CIRCLE"], *self._position(x), *self._position(y), *size]

    def _lattice_edges(self, loop: Loop) -> list[tuple[tuple[int, int], int]]:
        """Counter-clockwise edges as (start point, sweep level or 0), begun at the canonical corner.

        Edges that lose their length on the lattice are dropped.
        """
        corners = [self._snap(edge.start) for edge in loop.edges]
        edges: list[tuple[tuple[int, int], int]] = []
        for i, edge in enumerate(loop.edges):
            if corners[i] == corners[(i + 1) % len(corners)]:
                continue
            edges.append((corners[i], self._sweep(edge)))
        points = [point for point, _ in edges]
        if len(set(points)) < len(points):
            return []  # touches itself: a sliver that the lattice has closed
        begin = min(range(len(edges)), key=lambda i: (points[i][1], points[i][0]), default=0)
        return edges[begin:] + edges[:begin]

    def _sweep(self, edge: Edge) -> int:
        if isinstance(edge, Line):
            return 0
        level = round(edge.sweep / (2 * math.pi) * self.grammar.half)
        limit = self.grammar.half - 1
        return max(-limit, min(limit, level))

    def _encode_edges(self, edges: list[tuple[tuple[int, int], int]]) -> list[int]:
        half = self.grammar.half
        (x, y), _ = edges[0]
        tokens = [*self._position(x), *self._position(y)]
        horizontal = True
        for i, (start, sweep) in enumerate(edges[:-1]):
            end = edges[i + 1][0]
            axis = 0 if horizontal else 1
            if sweep:
                places = [*self._position(end[0]), *self._position(end[1])]
                tokens += [TOKEN["ARC"], *places, self.grammar.value(sweep + half)]
            elif start[1 - axis] == end[1 - axis]:
                tokens += self._position(end[axis])
                horizontal = not horizontal
            else:
                tokens += [TOKEN["LINE"], *self._position(end[0]), *self._position(end[1])]
        last = edges[-1][1]
        return [*tokens, *([TOKEN["CLOSE_ARC"], self.grammar.value(last + half)] if last else [TOKEN["CLOSE"]])]


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


class _Decoder:
    """Reads a sequence along the grammar's automaton."""

    def __init__(self, codec: Codec, tokens: list[int]) -> None:
        self.codec = codec
        self.grammar = codec.grammar
        self.tokens = tokens
        self.at = 0
        self.state = State()

    def program(self) -> CadProgram:
        extrudes = []
        while (token := self._take()) != TOKEN["END"]:
            extrudes.append(self._extrude(Operation[NAMES[token]]))
        if self.at < len(self.tokens):
            raise RejectError("ungrammatical", f"{len(self.tokens) - self.at} tokens after END")
        return CadProgram(tuple(extrudes))

    def _take(self) -> int:
        if self.at >= len(self.tokens):
            raise RejectError("incomplete", f"the sequence stops where {self.state.slot} is due")
        token = self.tokens[self.at]
        try:
            self.state = self.grammar.advance(self.state, token)
        except GrammarError as error:
            raise RejectError("ungrammatical", f"token {self.at}: {error}") from error
        self.at += 1
        return token

    def _peek(self) -> int:
        return self.tokens[self.at] if self.at < len(self.tokens) else -1

    def _level(self) -> int:
        return self._take() - NUM_COMMANDS

    def _far_level(self) -> tuple[int, bool]:
        token = self._take()
        return (self._level(), True) if token == TOKEN["FAR"] else (token - NUM_COMMANDS, False)

    def _position(self) -> float:
        return self.grammar.steps(*self._far_level()) * self.codec.step

    def _point(self) -> Point2:
        return (self._position(), self._position())

    def _radius(self) -> float:
        level, far = self._far_level()
        return level * self.codec.step / 2 * (FAR_FACTOR if far else 1)

    def _sweep(self) -> float:
        half = self.grammar.half
        return (self._level() - half) / half * 2 * math.pi

    def _extrude(self, operation: Operation) -> Extrude:
        name = NAMES[self._take()]
        if name in PLANES:
            plane = AXIS_PLANES[name]
        else:
            half = self.grammar.half
            polar = self._level() / half * math.pi / 2
            azimuth = (self._level() - half) / half * math.pi
            sine = math.sin(polar)
            plane = oblique_plane((sine * math.cos(azimuth), sine * math.sin(azimuth), math.cos(polar)))
        low, high = self._position(), self._position()
        profiles: list[Profile] = []
        while self.state.slot == "loops" and (loop := self._loop()) is not None:
            is_hole, shape = loop
            if is_hole:
                last = profiles.pop()
                profiles.append(Profile(last.outer, (*last.holes, shape)))
            else:
                profiles.append(Profile(shape))
        origin = tuple(low * n for n in plane.normal)
        placed = Plane((origin[0], origin[1], origin[2]), plane.x_axis, plane.normal)
        return Extrude((Sketch(placed, tuple(profiles)),), operation, Extent(ExtentKind.ONE_SIDED, high - low))

    def _loop(self) -> tuple[bool, Loop] | None:
        name = NAMES.get(self._peek(), "")
        if self._peek() >= 0 and name.removeprefix("HOLE_") not in ("RECTANGLE", "CIRCLE", "LOOP"):
            return None
        self._take()
        match name.removeprefix("HOLE_"):
            case "RECTANGLE":
                (x0, y0), (x1, y1) = self._point(), self._point()
                corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
                loop = Loop(tuple(Line(corners[i], corners[(i + 1) % 4]) for i in range(4)))
            case "CIRCLE":
                loop = Loop((Circle(self._point(), self._radius()),))
            case _:
                loop = self._edges()
        return name.startswith("HOLE_"), loop

    def _edges(self) -> Loop:
        start = at = self._point()
        edges: list[Edge] = []
        horizontal = True
        while True:
            name = NAMES.get(self._peek(), "")
            if name == "LINE":
                self._take()
                edge: Edge = Line(at, self._point())
            elif name == "ARC":
                self._take()
                end = self._point()
                edge = Arc.through(at, end, self._sweep())
            elif name == "CLOSE":
                self._take()
                return Loop((*edges, Line(at, start)))
            elif name == "CLOSE_ARC":
                self._take()
                return Loop((*edges, Arc.through(at, start, self._sweep())))
            else:
                value = self._position()
                edge = Line(at, (value, at[1]) if horizontal else (at[0], value))
                horizontal = not horizontal
            edges.append(edge)
            at = edge.end
