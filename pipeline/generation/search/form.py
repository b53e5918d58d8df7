"""Programs as search changes them: prisms in whole steps of the codec's lattice.

Every form can be written in tokens. What a number costs there, and whether a form is sound, is told without writing it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.lattice import Lattice
from pipeline.cad.language.layout import Layout, Outline, Prism, Ring, Shape, flatten
from pipeline.cad.language.program import CadProgram, Operation
from pipeline.cad.language.tokens import FAR_FACTOR, FINE

Form = tuple[Prism, ...]
Region = tuple[Shape, tuple[Shape, ...]]  # outer shape and holes


def form_of(codec: Codec, tokens: Sequence[int]) -> Form:
    """What tokens write, in whole steps.

    Raises:
        RejectError: they write nothing.
    """
    lattice = Lattice(codec.grammar)
    flat = [each for extrude in codec.decode(tokens).extrudes for each in flatten(extrude)]
    Layout(lattice, checked=False).prisms(flat)
    lattice.refine_to(0.0)
    return tuple(Layout(lattice, checked=False).prisms(flat))


def tokens_of(codec: Codec, form: Form) -> tuple[int, ...]:
    """The canonical tokens, END included, of what a form makes.

    Raises:
        RejectError: ``quantised_away`` or ``unsupported_sequence``, as ``Codec.encode``.
    """
    return tuple(codec.encode(codec.decode(written(codec, form))).tolist())


def written(codec: Codec, form: Form) -> list[int]:
    """A form as tokens, as it is."""
    return codec.write(list(form))


def program_of(codec: Codec, form: Form) -> CadProgram:
    """The normalised program that a form is."""
    return codec.decode(written(codec, form))


def length(form: Form) -> int:
    """About as many tokens as it takes."""
    return sum(3 + _length_of(prism) for prism in form)


@lru_cache(1 << 14)
def _length_of(prism: Prism) -> int:
    total = _digits(prism.low) + _digits(prism.high) + (len(prism.plane) - 1)
    radius = -1
    for outer, holes in prism.profiles:
        for shape in (outer, *holes):
            if isinstance(shape, Ring):
                total += _digits(shape.x) + _digits(shape.y)
                total += 0 if shape.radius == radius else 1 + _digits(shape.radius)
                radius = shape.radius
            else:
                total += _outline_length(shape)
                radius = -1
    return total


def _outline_length(shape: Outline) -> int:
    total, corners = 2, shape.corners
    if is_rectangle(shape):
        (x0, y0, *_), (x1, y1, *_) = corners[0], corners[2]
        return 1 + sum(map(_digits, (x0, y0, x1, y1)))
    for i, (x, y, radius, sweep) in enumerate(corners):
        x0, y0, *_, before = corners[i - 1]
        if i == 0 or before or (x != x0 and y != y0):
            total += _digits(x) + _digits(y) + (i > 0)
        else:
            total += _digits(x if y == y0 else y)
        total += _digits(sweep) if sweep else 0
        total += 1 + _digits(radius) if radius else 0
    return total


def _digits(number: int) -> int:
    return 1 if number % FINE == 0 else 2


def is_rectangle(shape: Shape) -> bool:
    """Whether a shape is a rectangle along the axes."""
    if isinstance(shape, Ring) or len(shape.corners) != 4:
        return False
    (x0, y0, *_), (x1, y1, *_), (x2, y2, *_), (x3, y3, *_) = shape.corners
    sharp = not any(radius or sweep for _, _, radius, sweep in shape.corners)
    return sharp and x0 == x3 and x1 == x2 and y0 == y1 and y2 == y3 and x0 != x1 and y0 != y2


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Outline:
    """A rectangle from its lowest to its highest corner."""
    return Outline(tuple((x, y, 0, 0) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))))


def first_is_new(form: Form) -> Form:
    """The form with NEW for its first step."""
    if form and form[0].operation is not Operation.NEW:
        return (replace(form[0], operation=Operation.NEW), *form[1:])
    return form


def shapes_of(prism: Prism) -> Iterable[Shape]:
    """All loops of a step."""
    for outer, holes in prism.profiles:
        yield outer
        yield from holes


class Range:
    """The numbers that a lattice has."""

    def __init__(self, codec: Codec) -> None:
        grammar = codec.grammar
        self.rim = (grammar.half - 1) * FINE
        self.far = FINE * FAR_FACTOR
        self.top_radius = (grammar.levels - 1) * FINE
        self.turn = grammar.turn * FINE

    def place(self, number: float) -> int:
        """The nearest position."""
        whole = round(number)
        if -self.rim <= whole <= self.rim:
            return whole
        most = self.rim // FINE
        return max(-most, min(most, round(number / self.far))) * self.far

    def sweep(self, number: float) -> int:
        """The nearest turn of an arc."""
        return max(1 - self.turn, min(self.turn - 1, round(number)))

    def radius(self, number: float) -> int:
        """The nearest radius."""
        return max(1, min(self.top_radius, round(number)))
