"""The CAD vocabulary's embeddings: few rows of their own beside the language model's own.

A program's tokens are CAD tokens and nothing else, so the output layer needs these rows alone: logits over
some 280 entries instead of 49,000 or 150,000, in training and in generation.
"""

import math

import torch
from torch import Tensor

from pipeline.cad.grammar import NUM_COMMANDS, Grammar

OUTPUT_SCALE = 0.05


def initial_rows(grammar: Grammar, text_rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """First input and output embeddings of the CAD tokens, (tokens, E) each.

    Commands are random. Values are smooth curves through the space, so that neighbours begin alike. Inputs have
    the scale of text embeddings; outputs are small, so that all tokens begin about equally likely (with the
    inputs' scale the first loss is 12, twice that of a blind guess).
    """
    generator = torch.Generator().manual_seed(seed)
    sample = text_rows[torch.randperm(len(text_rows), generator=generator)[:4096]].float()
    mean, width = sample.mean(dim=0), text_rows.shape[1]
    std = float((sample - mean).std())
    rows = torch.randn(grammar.size, width, generator=generator)
    octaves = 2.0 ** torch.arange(grammar.bits - 1)
    phases = torch.linspace(-1, 1, grammar.levels)[:, None] * octaves * (math.pi / 2)
    waves = torch.cat([phases.sin(), phases.cos()], dim=1)  # (levels, 2 * octaves)
    mixing = torch.randn(waves.shape[1], width, generator=generator) / math.sqrt(len(octaves))
    rows[NUM_COMMANDS:] = waves @ mixing
    return mean + std * rows, OUTPUT_SCALE * std * rows
