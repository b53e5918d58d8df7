"""Sampling in which every row has random numbers of its own: what is drawn does not depend on the batch around it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class SeededSampling:
    """Adds Gumbel noise to scores over the temperature: the largest is then a sample of their softmax.

    Use one for each call of ``generate``, decoding greedily.

    Args:
        generators: of each row.
    """

    def __init__(self, generators: Sequence[np.random.Generator], temperature: float) -> None:
        self.temperature, self.generators = temperature, generators

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        noise = np.stack([generator.gumbel(size=scores.shape[1]) for generator in self.generators])
        return scores.float() / self.temperature + torch.from_numpy(noise).to(scores.device, torch.float32)
