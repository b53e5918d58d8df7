"""Changes of a form's numbers: one, all that are equal, opposite ones, whole loops and steps."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.layout import WORLD_AXES, Prism, Ring, Shape
from pipeline.cad.language.tokens import FINE
from pipeline.generation.search.form import Form, Range, Region
from pipeline.generation.search.judge import NAMES
from pipeline.generation.search.proposals import Proposer, outline_of

Axis = tuple[int, ...]  # of the frame, or of an oblique plane
Move = Callable[[int], int]
SPAN = 12  # powers of two of a number's change, in fine steps: up to 64 levels


def axes(prism: Prism) -> tuple[Axis, Axis, Axis]:
    """Along what a step's u, v and heights are measured: equal ones are comparable."""
    if len(prism.plane) == 1:
        u, v, w = WORLD_AXES[NAMES[prism.plane[0]]]
        return (u,), (v,), (w,)
    return tuple((*prism.plane, i) for i in range(3))  # type: ignore[return-value]


def map_shape(shape: Shape, u: Move, v: Move) -> Shape | None:
    """A loop with its places moved; None where nothing is left."""
    if isinstance(shape, Ring):
        return Ring(shape.radius, u(shape.x), v(shape.y))
    return outline_of([(u(x), v(y), radius, sweep) for x, y, radius, sweep in shape.corners])


def map_regions(regions: Sequence[Region], change: Callable[[Shape], Shape | None]) -> tuple[Region, ...]:
    """Profiles with their loops changed; those without outer loop are dropped."""
    found = []
    for outer, holes in regions:
        changed = change(outer)
        if changed is not None:
            found.append((changed, tuple(hole for hole in map(change, holes) if hole is not None)))
    return tuple(found)


def map_prism(prism: Prism, u: Move, v: Move, w: Move) -> Prism | None:
    """A step with all its places moved; None where nothing is left."""
    low, high = sorted((w(prism.low), w(prism.high)))
    profiles = map_regions(prism.profiles, lambda shape: map_shape(shape, u, v))
    return replace(prism, low=low, high=high, profiles=profiles) if low < high and profiles else None


def keep(number: int) -> int:
    """As it is."""
    return number


class Numbers:
    """Moves of numbers; each gives a form that differs, or None.

    Args:
        proposer: that knows the levels at which a cloud has faces, where there is one.
    """

    def __init__(self, codec: Codec, proposer: Proposer | None) -> None:
        self.range = Range(codec)
        self.levels: dict[Axis, list[int]] = {}
        if proposer is None:
            return
        for plane in proposer.axial:
            axis = (WORLD_AXES[NAMES[plane[0]]][2],)
            self.levels[axis] = [self.range.place(height / proposer.fine) for height in proposer.levels(plane)]

    def _delta(self, rng: np.random.Generator) -> int:
        return int(rng.choice((-1, 1))) << int(rng.integers(SPAN))

    def one(self, form: Form, rng: np.random.Generator) -> Form | None:
        """One number of a step or of one of its loops."""
        at = int(rng.integers(len(form)))
        prism = form[at]
        if rng.random() < 0.3:
            return _replaced(form, at, self._end(prism, rng))
        return _replaced(form, at, change_shape(prism, rng, lambda shape: self._number(shape, rng)))

    def _end(self, prism: Prism, rng: np.random.Generator) -> Prism | None:
        """A step with another end, anywhere or at a level."""
        ends = [prism.low, prism.high]
        which = int(rng.integers(2))
        levels = self.levels.get(axes(prism)[2], [])
        if levels and rng.random() < 0.5:
            ends[which] = int(rng.choice(levels))
        else:
            ends[which] = self.range.place(ends[which] + self._delta(rng))
        return replace(prism, low=ends[0], high=ends[1]) if ends[0] < ends[1] else None

    def _number(self, shape: Shape, rng: np.random.Generator) -> Shape | None:
        delta, where = self._delta(rng), self.range
        if isinstance(shape, Ring):
            match int(rng.integers(3)):
                case 0:
                    return replace(shape, radius=where.radius(shape.radius + delta))
                case 1:
                    return replace(shape, x=where.place(shape.x + delta))
                case _:
                    return replace(shape, y=where.place(shape.y + delta))
        corners = list(shape.corners)
        i = int(rng.integers(len(corners)))
        x, y, radius, sweep = corners[i]
        if sweep and rng.random() < 0.5:
            corners[i] = (x, y, radius, where.sweep(sweep + delta))
        elif radius and rng.random() < 0.5:
            corners[i] = (x, y, where.radius(radius + delta), sweep)
        else:
            # An edge along an axis moves with both of its ends.
            axis = int(rng.integers(2))
            value = corners[i][axis]
            for k in (i, i - 1, (i + 1) % len(corners)):
                if k == i or corners[k][axis] == value:
                    moved = list(corners[k])
                    moved[axis] = where.place(value + delta)
                    corners[k] = (moved[0], moved[1], moved[2], moved[3])
        return outline_of(corners)

    def equal(self, form: Form, rng: np.random.Generator) -> Form | None:
        """All numbers along an axis that are equal; half of the time their opposites the other way."""
        found = _some_place(form, rng)
        if found is None:
            return None
        axis, value = found
        target = self.range.place(value + self._delta(rng))
        return self._equal_to(form, axis, value, target, bool(rng.integers(2)))

    def snap(self, form: Form, rng: np.random.Generator) -> Form | None:
        """All numbers along an axis that are equal, to one that the cloud or the form has, or to a whole level."""
        found = _some_place(form, rng)
        if found is None:
            return None
        axis, value = found
        choice = rng.random()
        if choice < 0.4:
            target = round(value / FINE) * FINE
        else:
            known = self.levels.get(axis, []) if choice < 0.7 else []
            known = known or sorted(_places(form, axis))
            near = sorted((other for other in known if other != value), key=lambda other: abs(other - value))[:4]
            if not near:
                return None
            target = int(rng.choice(near))
        return self._equal_to(form, axis, value, self.range.place(target), bool(rng.integers(2)))

    def _equal_to(self, form: Form, axis: Axis, value: int, target: int, mirrored: bool) -> Form | None:
        if target == value:
            return None

        def move(number: int) -> int:
            if number == value:
                return target
            return -target if mirrored and number == -value else number

        return map_along(form, axis, move)

    def coarsen(self, form: Form, rng: np.random.Generator) -> Form | None:
        """All numbers of a loop, or of all, to whole levels, as far as they are near."""
        reach = int(rng.choice((2, 4, 8, 16)))

        def whole(number: int) -> int:
            rounded = round(number / FINE) * FINE
            return rounded if abs(rounded - number) <= reach else number

        def change(shape: Shape) -> Shape | None:
            if isinstance(shape, Ring):
                return Ring(max(1, whole(shape.radius)), whole(shape.x), whole(shape.y))
            return outline_of([(whole(x), whole(y), whole(r) if r else 0, whole(s)) for x, y, r, s in shape.corners])

        at = int(rng.integers(len(form)))
        if rng.random() < 0.5:
            return _replaced(form, at, change_shape(form[at], rng, change))
        profiles = map_regions(form[at].profiles, change)
        return _replaced(form, at, replace(form[at], profiles=profiles) if profiles else None)

    def shift(self, form: Form, rng: np.random.Generator) -> Form | None:
        """A loop, a step or all along one axis."""
        delta, which = self._delta(rng), int(rng.integers(3))

        def move(number: int) -> int:
            return self.range.place(number + delta)

        at = int(rng.integers(len(form)))
        u, v, w = (move if which == i else keep for i in range(3))
        kind = rng.random()
        if kind < 0.5:
            return _replaced(form, at, change_shape(form[at], rng, lambda shape: map_shape(shape, u, v)))
        if kind < 0.8:
            return _replaced(form, at, map_prism(form[at], u, v, w))
        return map_along(form, axes(form[at])[which], move)

    def scale(self, form: Form, rng: np.random.Generator) -> Form | None:
        """A loop, or a step's profiles, about its middle along one axis or both."""
        factor = float(np.exp(rng.normal() * rng.choice((0.01, 0.05, 0.2))))
        which = int(rng.integers(3))
        at = int(rng.integers(len(form)))

        def change(shape: Shape) -> Shape | None:
            x, y = middle(shape)
            return self.scaled(shape, factor if which != 1 else 1.0, factor if which != 0 else 1.0, x, y)

        if rng.random() < 0.7:
            return _replaced(form, at, change_shape(form[at], rng, change))
        profiles = map_regions(form[at].profiles, change)
        return _replaced(form, at, replace(form[at], profiles=profiles) if profiles else None)

    def scaled(self, shape: Shape, u: float, v: float, x: float, y: float) -> Shape | None:
        """A loop scaled about a point; a circle stays one."""
        where = self.range

        def along(factor: float, about: float) -> Move:
            return lambda number: where.place(about + factor * (number - about))

        moved = map_shape(shape, along(u, x), along(v, y))
        if isinstance(moved, Ring):
            return replace(moved, radius=where.radius(moved.radius * max(u, v, key=lambda f: abs(f - 1))))
        return moved


def middle(shape: Shape) -> tuple[float, float]:
    """The middle of a loop's corners."""
    if isinstance(shape, Ring):
        return shape.x, shape.y
    xs, ys = [c[0] for c in shape.corners], [c[1] for c in shape.corners]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2


def change_shape(prism: Prism, rng: np.random.Generator, change: Callable[[Shape], Shape | None]) -> Prism | None:
    """A step with one of its loops changed, or dropped where nothing is left of a hole."""
    which = int(rng.integers(len(prism.profiles)))
    outer, holes = prism.profiles[which]
    hole = int(rng.integers(1 + len(holes))) - 1
    if hole < 0:
        changed = change(outer)
        region = None if changed is None else (changed, holes)
    else:
        changed = change(holes[hole])
        kept = () if changed is None else (changed,)
        region = (outer, (*holes[:hole], *kept, *holes[hole + 1 :]))
    return with_region(prism, which, region)


def with_region(prism: Prism, which: int, region: Region | None) -> Prism | None:
    """A step with another profile, or without it; None where none is left."""
    kept = () if region is None else (region,)
    profiles = (*prism.profiles[:which], *kept, *prism.profiles[which + 1 :])
    return replace(prism, profiles=profiles) if profiles else None


def map_along(form: Form, axis: Axis, move: Move) -> Form | None:
    """A form with all places along one axis moved."""
    steps = []
    for prism in form:
        u, v, w = (move if own == axis else keep for own in axes(prism))
        if u is keep and v is keep and w is keep:
            steps.append(prism)
            continue
        moved = map_prism(prism, u, v, w)
        if moved is None:
            return None
        steps.append(moved)
    return tuple(steps)


def _replaced(form: Form, at: int, prism: Prism | None) -> Form | None:
    return None if prism is None else (*form[:at], prism, *form[at + 1 :])


def _some_place(form: Form, rng: np.random.Generator) -> tuple[Axis, int] | None:
    """Any place of a form and its axis."""
    prism = form[int(rng.integers(len(form)))]
    u, v, w = axes(prism)
    if rng.random() < 0.3:
        return w, (prism.low, prism.high)[int(rng.integers(2))]
    outer, holes = prism.profiles[int(rng.integers(len(prism.profiles)))]
    shape = (outer, *holes)[int(rng.integers(1 + len(holes)))]
    axis = int(rng.integers(2))
    if isinstance(shape, Ring):
        return (u, v)[axis], (shape.x, shape.y)[axis]
    corner = shape.corners[int(rng.integers(len(shape.corners)))]
    return (u, v)[axis], corner[axis]


def _places(form: Form, axis: Axis) -> set[int]:
    """All places along an axis."""
    found: set[int] = set()
    for prism in form:
        for which, own in enumerate(axes(prism)):
            if own != axis:
                continue
            if which == 2:
                found |= {prism.low, prism.high}
                continue
            for outer, holes in prism.profiles:
                for shape in (outer, *holes):
                    if isinstance(shape, Ring):
                        found.add((shape.x, shape.y)[which])
                    else:
                        found |= {corner[which] for corner in shape.corners}
    return found
