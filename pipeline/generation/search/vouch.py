"""The kernel's word for a program: that it makes the watertight solid that was judged, and what that looks like."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.solids.prisms import inside
from pipeline.cad.solids.rendering import Pictures
from pipeline.generation.search.form import Form, length, tokens_of
from pipeline.generation.search.judge import PRICE, Score
from pipeline.generation.select import BuildTask, build_candidate
from pipeline.runtime.errors import RejectError

SEEN = 1024  # programs whose looks are remembered
AGREEMENT = 0.97  # share of the points that are inside of both, or of none; round walls are tessellated


@dataclass(frozen=True, slots=True)
class VouchTask:
    """A program to build.

    Attributes:
        points: (N, 3) of which kernel and judge must say the same.
        cloud: (C, 6), which the solid is compared with.
    """

    tokens: tuple[int, ...]
    bits: int
    points: np.ndarray
    cloud: np.ndarray


def vouch(task: VouchTask) -> float:
    """Build a program, in a sandbox; the solid's ``misfit`` to the cloud.

    Raises:
        RejectError: it makes no watertight solid, or ``another_solid`` than its prisms say.
    """
    from pipeline.cad.solids import kernel
    from pipeline.cad.solids.distances import misfit
    from pipeline.cad.solids.mesh import watertight
    from pipeline.cad.solids.rays import RayScene
    from pipeline.geometry.draw import DEFLECTION

    program = Codec(task.bits).decode(task.tokens)
    mesh = kernel.tessellate(kernel.build(program), DEFLECTION)
    watertight(mesh)
    same = float((RayScene.of(mesh).contains(task.points) == inside(program, task.points)).mean())
    if same < AGREEMENT:
        raise RejectError("another_solid", f"kernel and judge agree on {same:.1%} of the points")
    return misfit(task.cloud, mesh)


class Looks:
    """Scores forms by pictures: the kernel builds each, some twenty a second."""

    def __init__(self, pictures: Pictures, codec: Codec) -> None:
        self.pictures, self.codec = pictures, codec
        self._misfit = lru_cache(SEEN)(self._of_tokens)

    def __call__(self, form: Form) -> Score:
        """Judge one form; what does not build is the worst."""
        try:
            alike = 1 - self._misfit(tokens_of(self.codec, form))
        except RejectError:
            return Score(-1.0, 0.0, 0.0)
        return Score(alike - PRICE * length(form), alike, alike)

    def _of_tokens(self, tokens: tuple[int, ...]) -> float:
        return build_candidate(BuildTask(tokens, self.codec.bits, self.pictures)) or 0.0
