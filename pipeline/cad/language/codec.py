"""Programs to token ids and back, on the lattice of the normalised frame.

Encoding is canonical: the same geometry, written differently, gives the same tokens (``layout``). The grammar is
in ``grammar``, the rounding in ``lattice``.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cad.language.grammar import Grammar, State
from pipeline.cad.language.lattice import Lattice
from pipeline.cad.language.layout import (
    ADDING,
    AXIS_PLANES,
    Layout,
    Outline,
    Prism,
    Ring,
    Shape,
    flatten,
    oblique_plane,
    prism_volume,
    shape_loop,
)
from pipeline.cad.language.program import CadProgram, Extent, ExtentKind, Extrude, Operation, Plane, Profile, Sketch
from pipeline.cad.language.tokens import FAR_FACTOR, FINE, NUM_COMMANDS, OPERATION_TOKENS, PLANES, TOKEN, GrammarError
from pipeline.runtime.errors import RejectError

TOLERANCE = 0.025  # of the volume
NAMES = {token: name for name, token in TOKEN.items()}


@dataclass(frozen=True)
class Codec:
    """Encoder and decoder.

    Attributes:
        bits: of a value level, 6 to 12.
        tolerance: share of the solid's volume that rounding may cost before numbers are made finer, to first
            order. 0 refines everything; 1 nothing that is well-formed without.
    """

    bits: int
    tolerance: float = TOLERANCE

    @property
    def grammar(self) -> Grammar:
        """What its token ids may follow one another as."""
        return Grammar(self.bits)

    @property
    def step(self) -> float:
        """Distance of neighbouring levels; -1, 0 and 1 are levels."""
        return Lattice(self.grammar).step

    def encode(self, program: CadProgram, volume: float | None = None) -> np.ndarray:
        """Token ids, END included: (T,) uint16.

        A program whose every number is on the lattice already is written exactly, and what is decoded and encoded
        again gives the same tokens: edges that have come to lie on one line, or on one circle, become one.

        Args:
            program: in the normalised frame.
            volume: of its solid, which the tolerance is a share of; None: that of all that is added.

        Raises:
            RejectError: ``out_of_range``, ``quantised_away`` or ``unsupported_sequence``.
        """
        tokens = self._encode(program, volume)
        for _ in range(4):
            again = self._encode(self.decode(tokens), volume)
            if np.array_equal(again, tokens):
                break
            tokens = again
        return tokens

    def _encode(self, program: CadProgram, volume: float | None) -> np.ndarray:
        lattice = Lattice(self.grammar)
        flat = [flattened for extrude in program.extrudes for flattened in flatten(extrude)]
        if volume is None:
            volume = sum(prism_volume(sketch, span) for operation, sketch, _, span in flat if operation in ADDING)
        Layout(lattice, checked=False).prisms(flat)
        lattice.refine_to(0.0 if lattice.exact else self.tolerance * volume)
        for _ in range(3):
            layout = Layout(lattice)
            prisms = layout.prisms(flat)
            if layout.faults <= lattice.refined:
                break
            lattice.refine(layout.faults)
        else:
            prisms = Layout(lattice, checked=False).prisms(flat)
        if not all(prism.profiles for prism in prisms):
            raise RejectError("quantised_away", f"an extrusion has no area left at {self.bits} bits")
        return np.array(self.write(prisms), np.uint16)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> CadProgram:
        """The normalised program that a sequence writes.

        Raises:
            RejectError: ``ungrammatical`` or ``incomplete``.
        """
        return _Decoder(self, [int(token) for token in tokens]).program()

    def write(self, prisms: list[Prism]) -> list[int]:
        """Prisms on the lattice as tokens, END included, just as they are."""
        return [*self._tokens(prisms), TOKEN["END"]]

    # -- whole steps to tokens ---------------------------------------------------------------------------

    def _tokens(self, prisms: list[Prism]) -> Iterable[int]:
        for prism in prisms:
            yield from (TOKEN[OPERATION_TOKENS[prism.operation]], *self._plane(prism.plane))
            yield from (*self._position(prism.low), *self._position(prism.high))
            repeatable: tuple[str, int] | None = None  # kind and radius of the circle before
            for outer, holes in prism.profiles:
                for prefix, shape in (("", outer), *(("HOLE_", hole) for hole in holes)):
                    if isinstance(shape, Outline):
                        yield from self._outline(prefix, shape)
                        repeatable = None
                        continue
                    if repeatable != (prefix, shape.radius):
                        yield from (TOKEN[f"{prefix}CIRCLE"], *self._radius(shape.radius))
                        repeatable = (prefix, shape.radius)
                    yield from (*self._position(shape.x), *self._position(shape.y))

    def _plane(self, plane: tuple[int, ...]) -> list[int]:
        if len(plane) == 1:
            return list(plane)
        polar, azimuth = plane[1:]
        return [plane[0], *self._number(polar, 0), *self._number(azimuth, self.grammar.half)]

    def _number(self, number: int, zero: int) -> list[int]:
        """A level and, where it is not enough, a fine token; ``zero`` is the level that means 0."""
        level = int(math.copysign((abs(number) + FINE // 2) // FINE, number))
        offset = number - level * FINE
        grammar = self.grammar
        return [grammar.value(level + zero), *([grammar.fine(offset)] if offset else [])]

    def _position(self, number: int) -> list[int]:
        grammar = self.grammar
        if abs(number) <= (grammar.half - 1) * FINE:
            return self._number(number, grammar.half)
        return [TOKEN["FAR"], grammar.value(number // (FINE * FAR_FACTOR) + grammar.half)]

    def _radius(self, number: int) -> list[int]:
        grammar = self.grammar
        if number <= (grammar.levels - 1) * FINE:
            return self._number(number, 0)
        return [TOKEN["FAR"], grammar.value(number // (FINE * FAR_FACTOR))]

    def _outline(self, prefix: str, shape: Outline) -> list[int]:
        points = shape.corners
        if len(points) == 4 and not any(radius or sweep for _, _, radius, sweep in points):
            xs, ys = sorted({x for x, *_ in points}), sorted({y for _, y, *_ in points})
            if len(xs) == len(ys) == 2 and len({(x, y) for x, y, *_ in points}) == 4:
                places = [token for number in (xs[0], ys[0], xs[1], ys[1]) for token in self._position(number)]
                return [TOKEN[f"{prefix}RECTANGLE"], *places]
        x, y, radius, sweep = points[0]
        tokens = [TOKEN[f"{prefix}LOOP"], *self._position(x), *self._position(y), *self._fillet(radius, 0)]
        last_radius, horizontal = radius, True
        for (x0, y0, _, sweep), (x, y, radius, _) in itertools.pairwise(points):
            if sweep:
                tokens += [TOKEN["ARC"], *self._position(x), *self._position(y), *self._turn(sweep)]
            elif y == y0 if horizontal else x == x0:
                tokens += self._position(x if horizontal else y)
                horizontal = not horizontal
            else:
                tokens += [TOKEN["LINE"], *self._position(x), *self._position(y)]
            tokens += self._fillet(radius, last_radius)
            last_radius = radius or last_radius
        last = points[-1][3]
        return [*tokens, *([TOKEN["CLOSE_ARC"], *self._turn(last)] if last else [TOKEN["CLOSE"]])]

    def _fillet(self, radius: int, last: int) -> list[int]:
        if not radius:
            return []
        return [TOKEN["ROUND"]] if radius == last else [TOKEN["FILLET"], *self._radius(radius)]

    def _turn(self, sweep: int) -> list[int]:
        return self._number(sweep, self.grammar.half)


class _Decoder:
    """Reads a sequence along the grammar's automaton."""

    def __init__(self, codec: Codec, tokens: list[int]) -> None:
        self.grammar = codec.grammar
        self.fine_step = codec.step / FINE
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

    def _peek(self) -> str:
        """The name of the command that comes next; empty for a number, or at the end."""
        return NAMES.get(self.tokens[self.at], "") if self.at < len(self.tokens) else "END"

    def _number(self) -> int:
        """A number in fine steps."""
        slot = self.state.slot
        token = self._take()
        far = token == TOKEN["FAR"]
        if far:
            token = self._take()
        number = self.grammar.number(slot if slot != "loops" else "cx", token - NUM_COMMANDS, far)
        if not far and self.at < len(self.tokens) and self.tokens[self.at] >= self.grammar.first_fine:
            number += self.grammar.fine_offset(self._take())
        return number

    def _angle(self) -> float:
        return self._number() / (self.grammar.turn * FINE) * 2 * math.pi

    def _extrude(self, operation: Operation) -> Extrude:
        name = NAMES[self._take()]
        if name in PLANES:
            plane = AXIS_PLANES[name]
        else:
            polar, azimuth = self._angle(), self._angle()
            sine = math.sin(polar)
            plane = oblique_plane((sine * math.cos(azimuth), sine * math.sin(azimuth), math.cos(polar)))
        low, high = self._number() * self.fine_step, self._number() * self.fine_step
        profiles: list[Profile] = []
        for is_hole, shape in self._loops():
            loop = shape_loop(shape, self.fine_step, self.grammar)
            if is_hole:
                last = profiles.pop()
                profiles.append(Profile(last.outer, (*last.holes, loop)))
            else:
                profiles.append(Profile(loop))
        origin = tuple(low * n for n in plane.normal)
        placed = Plane((origin[0], origin[1], origin[2]), plane.x_axis, plane.normal)
        return Extrude((Sketch(placed, tuple(profiles)),), operation, Extent(ExtentKind.ONE_SIDED, high - low))

    def _loops(self) -> Iterable[tuple[bool, Shape]]:
        is_hole, radius = False, 0
        while True:
            name = self._peek()
            if not name:  # the circle before, elsewhere
                yield is_hole, Ring(radius, self._number(), self._number())
                continue
            if name == "FAR" and self.state.circle:
                yield is_hole, Ring(radius, self._number(), self._number())
                continue
            kind = name.removeprefix("HOLE_")
            if kind not in ("RECTANGLE", "CIRCLE", "LOOP"):
                if self.state.loops == 0:
                    self._take()  # raises: an extrusion needs a loop
                return
            self._take()
            is_hole = name.startswith("HOLE_")
            match kind:
                case "RECTANGLE":
                    x0, y0, x1, y1 = (self._number() for _ in range(4))
                    yield is_hole, Outline(tuple((x, y, 0, 0) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))))
                case "CIRCLE":
                    radius = self._number()
                    yield is_hole, Ring(radius, self._number(), self._number())
                case _:
                    yield is_hole, self._outline()

    def _outline(self) -> Outline:
        x, y = self._number(), self._number()
        points: list[tuple[int, int, int, int]] = []
        radius, horizontal = 0, True

        def corner() -> int:
            """The radius of the fillet at the corner just reached."""
            nonlocal radius
            name = self._peek()
            if name not in ("FILLET", "ROUND"):
                return 0
            self._take()
            if name == "FILLET":
                radius = self._number()
            return radius

        here = (x, y, corner())
        while True:
            name, sweep = self._peek(), 0
            if name in ("LINE", "ARC", "CLOSE", "CLOSE_ARC"):
                self._take()
            if name.startswith("CLOSE"):
                sweep = self._number() if name == "CLOSE_ARC" else 0
                return Outline((*points, (*here, sweep)))
            if name in ("LINE", "ARC"):
                x, y = self._number(), self._number()
                sweep = self._number() if name == "ARC" else 0
            else:
                number = self._number()
                x, y = (number, y) if horizontal else (x, number)
                horizontal = not horizontal
            points.append((*here, sweep))
            here = (x, y, corner())
