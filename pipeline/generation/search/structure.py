"""Changes of what a form is made of: steps, profiles, holes, corners, operations."""

from dataclasses import replace

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.layout import Outline, Prism, Ring, Shape
from pipeline.cad.language.program import Operation
from pipeline.generation.search.form import Form, Range, first_is_new, rectangle
from pipeline.generation.search.judge import Judge
from pipeline.generation.search.moves import change_shape, keep, map_shape, middle, with_region
from pipeline.generation.search.proposals import Proposer, outline_of

OPERATIONS = (Operation.JOIN, Operation.CUT, Operation.INTERSECT)


class Structure:
    """Moves of structure; each gives a form that differs, or None."""

    def __init__(self, codec: Codec) -> None:
        self.range = Range(codec)

    def drop(self, form: Form, rng: np.random.Generator) -> Form | None:
        """A step, a profile or a hole less."""
        at = int(rng.integers(len(form)))
        prism = form[at]
        if rng.random() < 0.3:
            return _with(form, at, None)
        which = int(rng.integers(len(prism.profiles)))
        outer, holes = prism.profiles[which]
        if not holes or rng.random() < 0.5:
            return _with(form, at, with_region(prism, which, None))
        hole = int(rng.integers(len(holes)))
        return _with(form, at, with_region(prism, which, (outer, holes[:hole] + holes[hole + 1 :])))

    def simplify(self, form: Form, rng: np.random.Generator) -> Form | None:
        """A loop with a corner less, an arc that is a line, or as a circle or rectangle."""
        at = int(rng.integers(len(form)))
        changed = change_shape(form[at], rng, lambda shape: self._simpler(shape, rng))
        return None if changed is None else _with(form, at, changed)

    def _simpler(self, shape: Shape, rng: np.random.Generator) -> Shape | None:
        if isinstance(shape, Ring):
            return None
        corners, kind = list(shape.corners), rng.random()
        i = int(rng.integers(len(corners)))
        if kind < 0.5:
            del corners[i]
            return outline_of(corners)
        if kind < 0.7:
            x, y, radius, sweep = corners[i]
            corners[i] = (x, y, 0, 0) if radius or sweep else (x, y, 0, self.range.turn // 16)
            return outline_of(corners)
        xs, ys = [c[0] for c in corners], [c[1] for c in corners]
        x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
        if kind < 0.85:
            return rectangle(x0, y0, x1, y1) if len(corners) != 4 or shape != rectangle(x0, y0, x1, y1) else None
        place = self.range.place
        return Ring(self.range.radius((x1 - x0 + y1 - y0) / 2), place((x0 + x1) / 2), place((y0 + y1) / 2))

    def operate(self, form: Form, rng: np.random.Generator) -> Form | None:
        """Another operation, or two steps the other way round."""
        at = int(rng.integers(len(form)))
        if at == 0:
            return None
        if rng.random() < 0.6:
            operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
            return None if operation is form[at].operation else _with(form, at, replace(form[at], operation=operation))
        steps = list(form)
        steps[at - 1], steps[at] = steps[at], steps[at - 1]
        if at == 1:
            steps[1] = replace(steps[1], operation=Operation.JOIN)
        return first_is_new(tuple(steps))

    def merge(self, form: Form, rng: np.random.Generator) -> Form | None:
        """Two steps on parallel planes as one, with the profiles of one of them or of both."""
        if len(form) < 2:
            return None
        a, b = sorted(rng.choice(len(form), 2, replace=False).tolist())
        first, second = form[a], form[b]
        if first.plane != second.plane:
            return None
        low, high = min(first.low, second.low), max(first.high, second.high)
        match int(rng.integers(4)):
            case 0:
                profiles = first.profiles
            case 1:
                profiles = second.profiles
            case 2:
                profiles = tuple(dict.fromkeys((*first.profiles, *second.profiles)))
            case _:  # the first reaches over both, the second stays
                return _with(form, a, replace(first, low=low, high=high))
        merged = _with(form, a, replace(first, low=low, high=high, profiles=profiles))
        return None if merged is None else _with(merged, b, None)

    def copy(self, form: Form, rng: np.random.Generator) -> Form | None:
        """A loop once more: mirrored about an axis of the frame or of the outer loop, or beside itself."""
        at = int(rng.integers(len(form)))
        prism = form[at]
        which = int(rng.integers(len(prism.profiles)))
        outer, holes = prism.profiles[which]
        loops = holes or (outer,)
        shape = loops[int(rng.integers(len(loops)))]
        about = (0.0, 0.0) if rng.random() < 0.5 else middle(outer)
        copied = self._mirrored(shape, about, int(rng.integers(3)))
        if copied is None or copied in loops:
            return None
        if holes:
            return _with(form, at, with_region(prism, which, (outer, (*holes, copied))))
        return _with(form, at, replace(prism, profiles=(*prism.profiles, (copied, ()))))

    def _mirrored(self, shape: Shape, about: tuple[float, float], kind: int) -> Shape | None:
        """A loop the other way round in u, in v, or in both."""
        place = self.range.place
        u = (lambda n: place(2 * about[0] - n)) if kind != 1 else keep
        v = (lambda n: place(2 * about[1] - n)) if kind != 0 else keep
        moved = map_shape(shape, u, v)
        if kind == 2 or not isinstance(moved, Outline):
            return moved
        corners = moved.corners
        return outline_of([(*corners[i][:3], corners[i - 1][3]) for i in reversed(range(len(corners)))])

    def alike(self, form: Form, rng: np.random.Generator) -> Form | None:
        """A circle with the radius of another one, or a place opposite to what it was."""
        rings = [shape for prism in form for o, hs in prism.profiles for shape in (o, *hs) if isinstance(shape, Ring)]
        radii = sorted({ring.radius for ring in rings})
        if len(radii) < 2:
            return None
        i = int(rng.integers(len(radii) - 1))
        old, new = (radii[i], radii[i + 1]) if rng.random() < 0.5 else (radii[i + 1], radii[i])

        def change(shape: Shape) -> Shape:
            return replace(shape, radius=new) if isinstance(shape, Ring) and shape.radius == old else shape

        return tuple(
            replace(prism, profiles=tuple((change(o), tuple(map(change, hs))) for o, hs in prism.profiles))
            for prism in form
        )


class Redrawing:
    """Moves that draw what a cloud has."""

    def __init__(self, proposer: Proposer, thorough: Judge) -> None:
        self.proposer, self.thorough = proposer, thorough

    def redraw(self, form: Form, rng: np.random.Generator) -> Form | None:
        """A step's profiles drawn anew from the cloud, more or less finely."""
        at = int(rng.integers(len(form)))
        prism, fine = form[at], self.proposer.fine
        wanted = self.proposer.evidence.labels
        if prism.operation is Operation.CUT:
            wanted = ~wanted
        cells, coarse = float(rng.choice((1.0, 1.5, 2.0))), float(rng.choice((1.0, 3.0, 10.0, 30.0)))
        regions = self.proposer.regions(prism.plane, prism.low * fine, prism.high * fine, wanted, cells, coarse)
        return _with(form, at, replace(prism, profiles=regions)) if regions else None

    def residual(self, form: Form, rng: np.random.Generator) -> Form | None:
        """A step more: where the form lacks something a join, where it has too much a cut."""
        inside, labels = self.thorough.inside(form), self.proposer.evidence.labels
        missing, extra = labels & ~inside, inside & ~labels
        weights = np.array([missing.sum(), extra.sum()], float)
        if not weights.any():
            return None
        which = int(rng.choice(2, p=weights / weights.sum()))
        wrong, operation = ((missing, Operation.JOIN), (extra, Operation.CUT))[which]
        slabs = self.proposer.slabs(wrong)
        if not slabs:
            return None
        shares = np.array([share for *_, share in slabs])
        plane, low, high, _ = slabs[int(rng.choice(len(slabs), p=shares / shares.sum()))]
        prism = self.proposer.slab(plane, low, high, wrong, operation)
        return None if prism is None else (*form, prism)


def _with(form: Form, at: int, prism: Prism | None) -> Form | None:
    """A form with another step, or without it; None where none is left."""
    kept = () if prism is None else (prism,)
    steps = (*form[:at], *kept, *form[at + 1 :])
    return first_is_new(steps) if steps else None
