"""The CAD vocabulary's embeddings: few rows of their own beside the language model's own.

A program's tokens are CAD tokens and nothing else, so the output layer needs these rows alone: logits over
some 280 entries instead of 49,000 or 150,000, in training and in generation.
"""

import math

import torch
from torch import Tensor

from pipeline.cad.tokens import FINE_OFFSETS, NUM_COMMANDS, Vocabulary

OUTPUT_SCALE = 0.05


def initial_rows(vocabulary: Vocabulary, text_rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """First input and output embeddings of the CAD tokens, (tokens, E) each.

    Commands are random. Values and fine offsets are smooth curves through the space, so that neighbours begin
    alike. Inputs have the scale of text embeddings; outputs are small, so that all tokens begin about equally likely
    (with the inputs' scale the first loss is 12, twice that of a blind guess).
    """
    generator = torch.Generator().manual_seed(seed)
    sample = text_rows[torch.randperm(len(text_rows), generator=generator)[:4096]].float()
    mean, width = sample.mean(dim=0), text_rows.shape[1]
    std = float((sample - mean).std())
    rows = torch.randn(vocabulary.size, width, generator=generator)
    values = slice(NUM_COMMANDS, vocabulary.first_fine)
    rows[values] = _curve(vocabulary.levels, vocabulary.bits - 1, width, generator)
    rows[vocabulary.first_fine :] = _curve(len(FINE_OFFSETS), 4, width, generator)
    return mean + std * rows, OUTPUT_SCALE * std * rows


def _curve(num_points: int, num_octaves: int, width: int, generator: torch.Generator) -> Tensor:
    """(num_points, width): waves of doubling frequency, mixed at random."""
    octaves = 2.0 ** torch.arange(num_octaves)
    phases = torch.linspace(-1, 1, num_points)[:, None] * octaves * (math.pi / 2)
    waves = torch.cat([phases.sin(), phases.cos()], dim=1)  # (num_points, 2 * num_octaves)
    mixing = torch.randn(waves.shape[1], width, generator=generator) / math.sqrt(num_octaves)
    return waves @ mixing
