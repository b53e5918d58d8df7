"""Sampling in which every row has random numbers of its own: what is drawn does not depend on the batch around it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Adds Gumbel noise to scores over the temperature: the largest is then a sample of their softmax.

    Use one for each call of ``generate``, decoding greedily.

    Args:
        seeds: of each row.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self.temperature = temperature
        self._generators = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        noise = np.stack([generator.gumbel(size=scores.shape[1]) for generator in self._generators])
        return scores.float() / self.temperature + torch.from_numpy(noise).to(scores.device, torch.float32)
