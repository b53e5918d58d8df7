"""How well a form explains the evidence, without the kernel.

What a loop holds of the points, all along its normal, is kept by loop and plane, and so for profiles and steps: a form
that differs in one number is asked about that loop or that interval alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.layout import AXIS_PLANES, Prism, Ring, Shape, oblique_plane, shape_loop
from pipeline.cad.language.program import Operation, Profile
from pipeline.cad.language.regions import Regions
from pipeline.cad.language.tokens import FINE, PLANES, TOKEN
from pipeline.cad.solids.prisms import FLAT, combine
from pipeline.generation.search.evidence import Evidence
from pipeline.generation.search.form import Form, Region, is_rectangle, length

PRICE = 0.0002  # of a token
EXCESS = 0.05  # of a reach beyond the cloud, as long as the longest half-side
KEPT = 4096  # loops, and steps, whose points are remembered
NAMES = {TOKEN[name]: name for name in PLANES}


@dataclass(frozen=True, slots=True, order=True)
class Score:
    """How good a form is; 1 explains all.

    Attributes:
        value: what search makes larger.
        volume: IoU of the points anywhere.
        surface: share of the cloud's points with inside behind them and outside before them, over all distances.
    """

    value: float
    volume: float
    surface: float


class Judge:
    """Scores forms by evidence."""

    def __init__(self, evidence: Evidence, codec: Codec, price: float = PRICE, volume: float = 0.5) -> None:
        self.evidence, self.codec, self.price, self.share = evidence, codec, price, volume
        self.fine_step = codec.step / FINE
        self.points, self._limits = evidence.points / self.fine_step, evidence.limits / self.fine_step
        count = evidence.num_volume
        self._inside = np.where(evidence.labels[:count], evidence.weights[:count], 0)
        self._outside = np.where(evidence.labels[:count], 0, evidence.weights[:count])
        # Of what no point anywhere stands for, those behind the surface tell.
        seen = float(self._inside.sum())
        self._unseen = max(evidence.volume - seen, 0.0)
        self._total = max(seen + self._unseen, 1e-12)
        self.column = lru_cache(KEPT)(self._column)
        self.step = lru_cache(KEPT)(self._step)
        self.reach = lru_cache(KEPT)(self._reach)
        self.local = lru_cache(64)(self._local)
        self.judged = 0

    def __call__(self, form: Form) -> Score:
        """Judge one form."""
        self.judged += 1
        inside = self.inside(form)
        count = self.evidence.num_volume
        anywhere = inside[:count].astype(np.float64)
        behind, before = inside[count:].reshape(2, -1)
        held = float(self._inside @ anywhere) + self._unseen * float(behind.mean())
        volume = held / (self._total + float(self._outside @ anywhere))
        surface = float((behind & ~before).mean())
        costs = self.price * length(form) + EXCESS * self.excess(form)
        return Score(self.share * volume + (1 - self.share) * surface - costs, volume, surface)

    def inside(self, form: Form) -> np.ndarray:
        """(N,) bool: which of the evidence's points are inside."""
        return combine([prism.operation for prism in form], np.array([self.step(*_sweep(prism)) for prism in form]))

    def excess(self, form: Form) -> float:
        """How far a form reaches beyond the cloud, all six ways: a thin spike holds no point, and is beside none.

        What a cut takes away counts all the same.
        """
        reach = np.full(6, -np.inf)
        for prism in form:
            if prism.operation is Operation.INTERSECT:
                reach = np.minimum(reach, self.reach(*_sweep(prism)))
            elif prism.operation is not Operation.CUT:
                reach = np.maximum(reach, self.reach(*_sweep(prism)))
        return float(np.maximum(reach - self._limits, 0).sum()) * self.fine_step

    def _local(self, plane: tuple[int, ...]) -> np.ndarray:
        """(3, N) coordinates of the points on a plane and along its normal, in fine steps."""
        return np.ascontiguousarray(axes_of(plane, self.codec) @ self.points.T)

    def _step(self, plane: tuple[int, ...], low: int, high: int, profiles: tuple[Region, ...]) -> np.ndarray:
        heights = self.local(plane)[2]
        between = (heights > low) & (heights < high)
        held: np.ndarray = np.zeros(len(heights), bool)
        for outer, holes in profiles:
            if holes:
                within = self.column(plane, outer).copy()
                for hole in holes:
                    within ^= self.column(plane, hole)
                held |= within
            else:
                held |= self.column(plane, outer)
        held &= between
        return held

    def _reach(self, plane: tuple[int, ...], low: int, high: int, profiles: tuple[Region, ...]) -> np.ndarray:
        """(6,) how far a step reaches along x, y and z and against them, in fine steps."""
        u, v, normal = np.concatenate([axes_of(plane, self.codec), -axes_of(plane, self.codec)], axis=1)
        regions = Regions.of([Profile(shape_loop(outer, 1.0, self.codec.grammar)) for outer, _ in profiles])
        towards, owners = (u + 1j * v)[:, None], regions.curves.regions
        reach = regions.curves.reaches(towards) + (regions.centres[owners] * towards.conj()).real
        found: np.ndarray = reach.max(axis=1) + np.maximum(normal * low, normal * high)
        return found

    def _column(self, plane: tuple[int, ...], shape: Shape) -> np.ndarray:
        """(N,) bool: which points' feet are within a loop."""
        u, v, _ = self.local(plane)
        return within(shape, self.codec, u, v)


def within(shape: Shape, codec: Codec, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(N,) bool: which points, in fine steps, are within a loop."""
    held: np.ndarray
    if isinstance(shape, Ring):
        held = (u - shape.x) ** 2 + (v - shape.y) ** 2 < shape.radius**2 / 4
        return held
    if is_rectangle(shape):
        (x0, y0, *_), (x1, y1, *_) = shape.corners[0], shape.corners[2]
        held = (u > min(x0, x1)) & (u < max(x0, x1)) & (v > min(y0, y1)) & (v < max(y0, y1))
        return held
    regions = Regions.of([Profile(shape_loop(shape, 1.0, codec.grammar))])
    held = np.zeros(len(u), bool)
    centre, (width, depth) = regions.centres[0], regions.sizes[0]
    if regions.areas[0] <= FLAT * max(width, depth) ** 2:
        return held
    near = np.flatnonzero((np.abs(u - centre.real) < width / 2) & (np.abs(v - centre.imag) < depth / 2))
    feet = np.ones((3, len(near)))
    feet[0], feet[1] = u[near] - centre.real, v[near] - centre.imag
    held[near] = regions.contains(0, feet)
    return held


def axes_of(plane: tuple[int, ...], codec: Codec) -> np.ndarray:
    """(3, 3): the two axes of a plane and its normal."""
    if len(plane) == 1:
        named = AXIS_PLANES[NAMES[plane[0]]]
    else:
        polar, azimuth = (angle * 2 * np.pi / (codec.grammar.turn * FINE) for angle in plane[1:])
        sine = np.sin(polar)
        named = oblique_plane((float(sine * np.cos(azimuth)), float(sine * np.sin(azimuth)), float(np.cos(polar))))
    return np.array([named.x_axis, named.y_axis, named.normal])


def _sweep(prism: Prism) -> tuple[tuple[int, ...], int, int, tuple[Region, ...]]:
    return prism.plane, prism.low, prism.high, prism.profiles
