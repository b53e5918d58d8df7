"""The kernel's word for a program: that it makes a watertight solid, and the one that was judged."""

from dataclasses import dataclass

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.solids.prisms import inside
from pipeline.runtime.errors import RejectError

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
