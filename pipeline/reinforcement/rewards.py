"""What a program is worth: how well its solid matches the true one, judged without the kernel."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram
from pipeline.cad.language.tokens import GrammarError
from pipeline.cad.solids.prisms import bounds, inside
from pipeline.runtime.errors import RejectError

POINTS = 2048  # of a box whose share in a solid is asked for: volumes to about a hundredth
# Successive powers of the root of x^4 = x + 1: their multiples fill a cube evenly (Roberts 2018, "The unreasonable
# effectiveness of quasirandom sequences").
TURNS = 1.2207440846057596 ** -np.arange(1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Reward:
    """Of one program.

    Attributes:
        value: what is learnt from.
        iou: of the solids; 0 where nothing can be judged.
        valid: whether it can.
    """

    value: float
    iou: float
    valid: bool


def reward(tokens: Sequence[int], true: Sequence[int], bits: int, length_cost: float) -> Reward:
    """The IoU of a program's solid with the true one, less a cost for each token; 0 at least.

    Args:
        tokens, true: programs, END included, in the true one's frame.
    """
    codec = Codec(bits)
    try:
        iou = estimated_iou(codec.decode(tokens), codec.decode(true))
    except (RejectError, GrammarError):
        return Reward(0.0, 0.0, False)
    return Reward(max(0.0, iou - length_cost * len(tokens)), iou, True)


def estimated_iou(one: CadProgram, other: CadProgram) -> float:
    """Common over joint volume, estimated from as many points in each solid's box and in what the boxes share.

    So that thin parts are met by as many points as bulky ones. The same program gives 1.

    Raises:
        RejectError: a program is empty, or encloses nothing.
    """
    (low, high), (other_low, other_high) = bounds(one), bounds(other)
    volume, other_volume = _volume(low, high, one), _volume(other_low, other_high, other)
    if not min(volume, other_volume) > 0:
        raise RejectError("empty_solid", "too little is inside to be measured")
    common = _volume(np.maximum(low, other_low), np.minimum(high, other_high), one, other)
    return min(1.0, common / (volume + other_volume - common))


def _volume(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray, *programs: CadProgram) -> float:
    """Of what is inside all programs within a box."""
    sizes = np.subtract(high, low)
    if not (sizes > 0).all():
        return 0.0
    points = low + sizes * _evenly()
    return float(np.logical_and.reduce([inside(program, points) for program in programs]).mean() * sizes.prod())


@functools.cache
def _evenly() -> np.ndarray:
    """(POINTS, 3) in the unit cube."""
    return (0.5 + np.arange(1, POINTS + 1)[:, None] * TURNS) % 1
