"""Steps read off the cloud: between two levels at which it has flat faces, what the points in between draw on a plane.

With the labels of the points themselves this gives a whole part as a stack of slabs; with what a program gets wrong it
gives the step that it lacks, or has too much of.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.layout import Outline, Prism, Ring, Shape, shape_loop
from pipeline.cad.language.planar import cross_or_touch
from pipeline.cad.language.program import Operation
from pipeline.cad.language.tokens import FINE, TOKEN
from pipeline.generation.search.contours import Outlined, outlines
from pipeline.generation.search.evidence import Evidence
from pipeline.generation.search.form import Form, Range, Region
from pipeline.generation.search.judge import axes_of

Plane = tuple[int, ...]
AXIAL: tuple[Plane, ...] = tuple((TOKEN[name],) for name in ("XY", "YZ", "ZX"))
FLAT = 0.97  # cosine between a face's normal and an axis that it is level along
UPRIGHT = 0.25  # cosine that a wall along an axis keeps below
MOST_LEVELS = 14
MOST_TOGETHER = 4  # slabs that a step goes through
FEWEST_WRONG = 12  # points, that a step is proposed for
FEWEST = 0.004  # of the cloud's points, in a level
WIDTH = 0.0005  # half of a level's height, where there is no noise
FINER_TO_COARSER = ((1.0, 1.0), (1.5, 3.0), (2.0, 10.0))  # grids, and what curves cost
ELSEWHERE = 0.01  # weight of a wall at other heights: it may go on here


class Proposer:
    """Proposes steps for one cloud."""

    def __init__(self, evidence: Evidence, codec: Codec) -> None:
        self.evidence, self.codec, self.range = evidence, codec, Range(codec)
        self.fine = codec.step / FINE
        self.turn = 2 * np.pi / self.range.turn
        self.axial = AXIAL
        self._levels: dict[Plane, list[float]] = {}

    def levels(self, plane: Plane) -> list[float]:
        """Heights along a plane's normal at which the cloud has faces, and its ends: ascending."""
        if plane not in self._levels:
            normal = axes_of(plane, self.codec)[2]
            heights = self.evidence.cloud[:, :3] @ normal
            cosines = self.evidence.cloud[:, 3:] @ normal
            width = max(WIDTH, 2 * self.evidence.noise)
            fewest = max(8, FEWEST * len(heights))
            found: list[float] = []
            # Faces that look up and faces that look down apart: a thin plate has both at almost one height.
            up, down = (np.sort(heights[sign * cosines > FLAT]) for sign in (1, -1))
            for height in _peaks(up, width, fewest) + _peaks(down, width, fewest) + self._ends(heights):
                if all(abs(height - other) > width for other in found):
                    found.append(height)
            self._levels[plane] = sorted(found)
        return self._levels[plane]

    def _ends(self, heights: np.ndarray) -> list[float]:
        """Where the cloud ends; of a noisy one about."""
        share = 0.0 if self.evidence.noise < WIDTH else 0.005
        return [float(np.quantile(heights, q)) for q in (share, 1 - share)]

    def stack(self, plane: Plane) -> Form:
        """The part as slabs between its levels along one axis."""
        levels = self.levels(plane)
        steps = []
        for low, high in itertools.pairwise(levels):
            prism = self.slab(plane, low, high, self.evidence.labels, Operation.JOIN)
            if prism is not None:
                steps.append(prism)
        return (replace(steps[0], operation=Operation.NEW), *steps[1:]) if steps else ()

    def stacks(self) -> list[Form]:
        """The part as slabs along each axis."""
        return [form for form in map(self.stack, self.axial) if form]

    def slabs(self, wrong: np.ndarray) -> list[tuple[Plane, float, float, float]]:
        """Between which levels points are that a form has wrong, (N,) bool, and how densely: more than elsewhere."""
        found = []
        for plane in self.axial:
            heights = self.evidence.points @ axes_of(plane, self.codec)[2]
            levels = self.levels(plane)
            here, all_ = np.sort(heights[wrong]), np.sort(heights)
            for i, low in enumerate(levels[:-1]):
                for high in levels[i + 1 : i + 1 + MOST_TOGETHER]:
                    count = int(np.searchsorted(here, high) - np.searchsorted(here, low))
                    of = int(np.searchsorted(all_, high) - np.searchsorted(all_, low))
                    if count >= FEWEST_WRONG:
                        found.append((plane, low, high, count**2 / of))
        return found

    def slab(self, plane: Plane, low: float, high: float, inside: np.ndarray, operation: Operation) -> Prism | None:
        """The step between two heights around the points that are to be inside, if there is one.

        Args:
            inside: (N,) bool of the evidence's points.
        """
        # Where no loop is sound, a coarser one may be.
        drawn = (self.regions(plane, low, high, inside, cells, coarse) for cells, coarse in FINER_TO_COARSER)
        regions = next(filter(None, drawn), ())
        bottom, top = self.range.place(low / self.fine), self.range.place(high / self.fine)
        return Prism(operation, plane, bottom, top, regions) if regions and bottom < top else None

    def regions(
        self, plane: Plane, low: float, high: float, inside: np.ndarray, cells: float = 1.0, coarse: float = 1.0
    ) -> tuple[Region, ...]:
        """Profiles around the points between two heights that are to be inside.

        Args:
            cells: above 1 for a coarser grid, which small details are lost in.
            coarse: above 1 for fewer curves.
        """
        axes, margin = axes_of(plane, self.codec), 0.1 * (high - low)
        places = self.evidence.points @ axes.T
        at = (places[:, 2] > low + margin) & (places[:, 2] < high - margin)
        cloud, normals = self.evidence.cloud[:, :3] @ axes.T, self.evidence.cloud[:, 3:] @ axes.T
        slack = max(WIDTH, 2 * self.evidence.noise)
        wall = np.abs(normals[:, 2]) < UPRIGHT
        here = (cloud[wall, 2] > low - slack) & (cloud[wall, 2] < high + slack)
        directions = normals[wall, :2] / np.linalg.norm(normals[wall, :2], axis=1, keepdims=True)
        walls = np.column_stack([cloud[wall, :2], directions, np.where(here, 1.0, ELSEWHERE)])
        found = outlines(places[at, :2], inside[at], walls, self.evidence.noise, cells, coarse)
        return self.sound(found)

    def sound(self, found: Sequence[Outlined]) -> tuple[Region, ...]:
        """Profiles of loops that do not cross: those that would, as polygons; without what still does."""
        regions = []
        for outer, holes in nested(found):
            fitted = _region(self.shape_of(outer), [self.shape_of(hole) for hole in holes])
            if fitted is not None and not crosses(fitted, self.codec):
                regions.append(fitted)
                continue
            polygon = self.polygon_of(outer)
            region = _region(polygon, [])
            if region is None or crosses(region, self.codec):
                continue
            for hole in holes:
                shape = self.polygon_of(hole)
                more = _region(polygon, [*region[1], shape])
                if shape is not None and more is not None and not crosses(more, self.codec):
                    region = more
            regions.append(region)
        return tuple(regions)

    def polygon_of(self, outlined: Outlined) -> Shape | None:
        """A loop through the points of an outline at which it was cut; of a circle the circle."""
        if outlined.radius:
            return self.shape_of(outlined)
        corners = tuple(outlined.outline[list(outlined.cuts)].tolist())
        return self.shape_of(replace(outlined, corners=corners, sweeps=(0.0,) * len(corners)))

    def shape_of(self, outlined: Outlined) -> Shape | None:
        """A fitted loop in whole steps, counter-clockwise; None where nothing is left of it."""
        where = self.range
        if outlined.radius:
            (centre,) = outlined.corners
            x, y = where.place(centre.real / self.fine), where.place(centre.imag / self.fine)
            return Ring(where.radius(outlined.radius / self.fine * 2), x, y)
        points = [
            (where.place(at.real / self.fine), where.place(at.imag / self.fine), 0, round(sweep / self.turn))
            for at, sweep in zip(outlined.corners, outlined.sweeps, strict=True)
        ]
        if outlined.area < 0:
            points = [(*points[i][:3], -points[i - 1][3]) for i in reversed(range(len(points)))]
        return outline_of(points)


def outline_of(points: Sequence[tuple[int, int, int, int]]) -> Outline | None:
    """A loop without corners that are twice there or on a straight line; None where it encloses nothing."""
    kept = list(points)
    while True:
        count = len(kept)
        kept = [
            p
            for i, p in enumerate(kept)
            if p[:2] != kept[(i + 1) % len(kept)][:2] and not _is_straight(kept[i - 1], p, kept[(i + 1) % len(kept)])
        ]
        if len(kept) == count:
            break
    enough = len(kept) >= 3 or (len(kept) == 2 and any(sweep for *_, sweep in kept))
    return Outline(tuple(kept)) if enough and len({p[:2] for p in kept}) == len(kept) else None


def _is_straight(before: Sequence[int], at: Sequence[int], after: Sequence[int]) -> bool:
    """Whether a corner is none: nothing turns there."""
    if before[3] or at[3] or at[2]:
        return False
    ux, uy, vx, vy = at[0] - before[0], at[1] - before[1], after[0] - at[0], after[1] - at[1]
    return ux * vy == uy * vx


def _region(outer: Shape | None, holes: Sequence[Shape | None]) -> Region | None:
    """A profile of what is left of its loops."""
    return None if outer is None else (outer, tuple(hole for hole in holes if hole is not None))


def crosses(region: Region, codec: Codec) -> bool:
    """Whether a profile's loops meet themselves or each other."""
    outer, holes = region
    return cross_or_touch([shape_loop(shape, 1.0, codec.grammar) for shape in (outer, *holes)])


def nested(found: Sequence[Outlined]) -> list[tuple[Outlined, list[Outlined]]]:
    """Outer loops with their holes: each hole goes to the smallest outer loop around it."""
    outers = [(each, list[Outlined]()) for each in found if each.area > 0]
    for hole in found:
        around = [pair for pair in outers if hole.area < 0 and pair[0].area > -hole.area and _around(pair[0], hole)]
        if around:
            min(around, key=lambda pair: pair[0].area)[1].append(hole)
    return outers


def _around(outer: Outlined, hole: Outlined) -> bool:
    """Whether a point of the hole is within the outer loop: the sides above it are odd."""
    at, begin, end = hole.outline[0], outer.outline, np.roll(outer.outline, -1)
    spans = (begin.real > at.real) != (end.real > at.real)
    begin, along = begin[spans], (end - begin)[spans]
    heights = begin.imag + (at.real - begin.real) * along.imag / along.real
    return int((heights > at.imag).sum()) % 2 == 1


def _peaks(values: np.ndarray, width: float, fewest: float) -> list[float]:
    """Where values, ascending, are dense: the densest first."""
    found: list[float] = []
    left = values
    while len(left) and len(found) < MOST_LEVELS:
        counts = np.searchsorted(left, left + width) - np.searchsorted(left, left - width)
        top = int(counts.argmax())
        if counts[top] < fewest:
            break
        near = np.abs(left - left[top]) <= width
        centre = float(np.median(left[near]))
        found.append(centre)
        left = left[np.abs(left - centre) > 2 * width]
    return found
