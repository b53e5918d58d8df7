"""Numbers put where the cloud's points lie: what judging by inside and outside leaves open.

A face moves by the median of its points' distances from it, a circle by least squares. Numbers that are equal move
together, so that faces that touch still touch.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.layout import Outline, Prism, Ring, Shape
from pipeline.cad.language.tokens import FINE
from pipeline.generation.search.evidence import Evidence
from pipeline.generation.search.form import Form, Range, shapes_of
from pipeline.generation.search.judge import axes_of, within
from pipeline.generation.search.moves import axes, map_prism, map_regions

ROUNDS = 3
REACH = 0.01  # of the longest half-side: points farther from a face are not its own
OF_NOISE = 4.0  # the same, where the cloud is noisy
ALIKE_OF_NOISE = 2.0
FACING = 0.9  # cosine between the normals of a face and of its points
FEWEST = 8  # points that a face is moved by

RADIUS = "radius"

Number = tuple[object, int]  # an axis, or that it is a radius, and the value as a form has it
Shifts = dict[Number, int]


def polished(form: Form, evidence: Evidence, codec: Codec) -> Form:
    """The form with its numbers where the cloud has them, as far as points tell them."""
    fine = codec.step / FINE
    reach = max(REACH, OF_NOISE * evidence.noise) / fine
    points, normals = evidence.cloud[:, :3] / fine, evidence.cloud[:, 3:]
    form = _merged(form, ALIKE_OF_NOISE * evidence.noise / fine, Range(codec))
    for _ in range(ROUNDS):
        told: defaultdict[Number, list[tuple[float, int]]] = defaultdict(list)
        for prism in form:
            frame = axes_of(prism.plane, codec)
            for number, shift, weight in _shifts(prism, frame @ points.T, frame @ normals.T, reach, codec):
                told[number].append((shift, weight))
        shifts = {number: round(_mean(each)) for number, each in told.items()}
        before, form = form, _shifted(form, shifts, Range(codec))
        if form == before:
            break
    return form


def _merged(form: Form, apart: float, numbers: Range) -> Form:
    """Numbers of one kind that differ by less than the noise are one: the cloud cannot tell them from each other."""
    values: defaultdict[object, set[int]] = defaultdict(set)
    for prism in form:
        u, v, w = axes(prism)
        values[w] |= {prism.low, prism.high}
        for shape in shapes_of(prism):
            corners = [(shape.x, shape.y)] if isinstance(shape, Ring) else [(x, y) for x, y, *_ in shape.corners]
            values[u] |= {x for x, _ in corners}
            values[v] |= {y for _, y in corners}
            values[RADIUS] |= {shape.radius} if isinstance(shape, Ring) else set()
    shifts: Shifts = {}
    for kind, found in values.items():
        group: list[int] = []
        for value in sorted(found):
            if group and value - group[0] > (2 * apart if kind == RADIUS else apart):
                group = []
            group.append(value)
            shifts |= {(kind, each): group[len(group) // 2] - each for each in group}
    return _shifted(form, shifts, numbers)


def _shifted(form: Form, shifts: Shifts, numbers: Range) -> Form:
    """All numbers moved, or none where nothing would be left of a step."""
    moved = [each for each in (_moved(prism, shifts, numbers) for prism in form) if each is not None]
    return tuple(moved) if len(moved) == len(form) else form


def _mean(shifts: list[tuple[float, int]]) -> float:
    return sum(shift * weight for shift, weight in shifts) / sum(weight for _, weight in shifts)


def _shifts(
    prism: Prism, local: np.ndarray, facing: np.ndarray, reach: float, codec: Codec
) -> Iterator[tuple[Number, float, int]]:
    """What the points on a step's faces tell of its numbers, and how many points do.

    Args:
        local, facing: (3, N) points in the step's frame, in fine steps, and their normals.
    """
    along_u, along_v, along_w = axes(prism)
    u, v, height = local
    held = np.zeros(len(u), bool)
    for outer, holes in prism.profiles:
        held |= np.logical_and.reduce([within(outer, codec, u, v), *(~within(hole, codec, u, v) for hole in holes)])
    for end in (prism.low, prism.high):
        yield from _median((along_w, end), height - end, held & (np.abs(facing[2]) > FACING), reach)
    wall = (height > prism.low - reach) & (height < prism.high + reach)
    for shape in shapes_of(prism):
        if isinstance(shape, Ring):
            yield from _circle(shape, (along_u, along_v), local[:2, wall], facing[:2, wall], reach)
            continue
        for (x0, y0, _, sweep), (x1, y1, *_) in pairwise((*shape.corners, shape.corners[0])):
            if sweep or (x0 == x1) == (y0 == y1):
                continue
            if x0 == x1:
                beside = wall & (np.abs(facing[0]) > FACING) & (v > min(y0, y1)) & (v < max(y0, y1))
                yield from _median((along_u, x0), u - x0, beside, reach)
            else:
                beside = wall & (np.abs(facing[1]) > FACING) & (u > min(x0, x1)) & (u < max(x0, x1))
                yield from _median((along_v, y0), v - y0, beside, reach)


def _median(
    number: Number, distances: np.ndarray, candidates: np.ndarray, reach: float
) -> Iterator[tuple[Number, float, int]]:
    own = distances[candidates & (np.abs(distances) < reach)]
    if len(own) >= FEWEST:
        yield number, float(np.median(own)), len(own)


def _circle(
    ring: Ring, along: tuple[object, object], feet: np.ndarray, facing: np.ndarray, reach: float
) -> Iterator[tuple[Number, float, int]]:
    """Centre and diameter of the circle that is nearest to its points, which lie all around it."""
    offsets = feet - np.array([[ring.x], [ring.y]])
    distances = np.hypot(*offsets)
    directions = offsets / np.maximum(distances, 1e-9)
    off = distances - ring.radius / 2
    own = (np.abs(off) < reach) & (np.abs((directions * facing).sum(axis=0)) > FACING)
    around = np.bincount(2 * (directions[0, own] > 0) + (directions[1, own] > 0), minlength=4)
    if own.sum() < FEWEST or not around.all():
        return
    design = np.stack([*directions[:, own], np.ones(own.sum())], axis=1)
    x, y, radius = np.linalg.lstsq(design, off[own], rcond=None)[0].tolist()
    count = int(own.sum())
    yield (along[0], ring.x), x, count
    yield (along[1], ring.y), y, count
    yield (RADIUS, ring.radius), 2 * radius, count


def _moved(prism: Prism, shifts: Shifts, numbers: Range) -> Prism | None:
    u, v, w = (lambda value, along=along: numbers.place(value + shifts.get((along, value), 0)) for along in axes(prism))
    sized = map_regions(prism.profiles, lambda shape: _sized(shape, shifts, numbers))
    return map_prism(replace(prism, profiles=sized), u, v, w)


def _sized(shape: Shape, shifts: Shifts, numbers: Range) -> Shape:
    if isinstance(shape, Outline):
        return shape
    return replace(shape, radius=numbers.radius(shape.radius + shifts.get((RADIUS, shape.radius), 0)))
