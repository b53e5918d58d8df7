"""Embeddings: the CAD vocabulary's few rows, and the language model's own.

A program's tokens are CAD tokens and nothing else, so the output layer needs these rows alone: logits over
some 280 entries instead of 49,000 or 150,000, in training and in generation.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.cad.language.tokens import FINE_OFFSETS, NUM_COMMANDS, Vocabulary

OUTPUT_SCALE = 0.05


class TextEmbedding(nn.Module):
    """The language model's own embeddings: its frozen table, and the rows of it that are trained, in float32.

    Only tokens that occur in the training data can learn, so only their rows are parameters: a few thousand in place of
    the whole table, for the optimizer as for a checkpoint.
    """

    slots: Tensor

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table.requires_grad_(False)
        self.rows: nn.Parameter | None = None
        self.register_buffer("slots", torch.full((table.num_embeddings,), -1), persistent=False)

    @property
    def embedding_dim(self) -> int:
        """E, as ``nn.Embedding`` calls it."""
        return self.table.embedding_dim

    def trained_ids(self) -> Tensor:
        """Token ids of the rows: ascending, whatever was freed first."""
        return torch.nonzero(self.slots >= 0).flatten()

    def free(self, ids: Iterable[int]) -> None:
        """Make rows of these tokens too; a new one starts as it is in the table."""
        known = self.trained_ids()
        wanted = torch.tensor(sorted({*known.tolist(), *ids}), dtype=torch.long, device=known.device)
        if len(wanted) == len(known):
            return
        rows = self.table.weight[wanted].detach().float()
        self.slots[wanted] = torch.arange(len(wanted), device=known.device)
        if self.rows is not None:
            rows[self.slots[known]] = self.rows.detach()
        self.rows = nn.Parameter(rows)

    def forward(self, ids: Tensor) -> Tensor:
        """(…) token ids to (…, E) in the table's dtype; gradients reach the trained rows alone."""
        frozen: Tensor = self.table(ids)
        if self.rows is None:
            return frozen
        slots = self.slots[ids]
        trained = F.embedding(slots.clamp(min=0), self.rows).to(frozen.dtype)
        return torch.where((slots >= 0).unsqueeze(-1), trained, frozen)


class CadEmbedding(nn.Embedding):
    """The CAD tokens' rows where they are read: trained in float32, given in the dtype that the model computes in.

    Else the tokens that are written one by one would go through 16-bit layers, and into their cache, in float32.
    """

    def __init__(self, rows: Tensor, dtype: torch.dtype) -> None:
        super().__init__(len(rows), rows.shape[1], _weight=rows)
        self.compute_dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """(…) CAD token ids to (…, E) in the compute dtype."""
        return super().forward(ids).to(self.compute_dtype)


class CadHead(nn.Linear):
    """The CAD tokens' rows where they are predicted: logits in float32, also where the model computes in 16 bits."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__(rows.shape[1], rows.shape[0], bias=False)
        self.weight = nn.Parameter(rows)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, E) hidden states to (…, tokens) logits in float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.to(self.weight.dtype))


def cad_token_names(vocabulary: Vocabulary) -> list[str]:
    """What the CAD tokens are called in the tokenizer of a language model that was pretrained on them."""
    return [f"<cad{vocabulary.bits}:{vocabulary.name(token)}>" for token in range(vocabulary.size)]


def pretrained_rows(vocabulary: Vocabulary, tokenizer: Any, llm: Any) -> tuple[Tensor, Tensor] | None:
    """Input and output embeddings of the CAD tokens, where the language model knows them all; else None."""
    known = tokenizer.get_vocab()
    names = cad_token_names(vocabulary)
    if not all(name in known for name in names):
        return None
    ids = torch.tensor([known[name] for name in names])
    inputs, outputs = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
    return inputs[ids].detach().float(), outputs[ids].detach().float()


def initial_rows(vocabulary: Vocabulary, text_rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """First input and output embeddings of the CAD tokens, (tokens, E) each.

    Commands are random. Values and fine offsets are smooth curves through the space, so that neighbours begin
    alike. Inputs have the scale of text embeddings; outputs are small, so that all tokens begin about equally likely
    (with the inputs' scale the first loss is 12, twice that of a blind guess).
    """
    generator = torch.Generator().manual_seed(seed)
    # On the CPU, wherever the model is: all else here is drawn there, and the same on every machine.
    sample = text_rows[torch.randperm(len(text_rows), generator=generator)[:4096]].float().cpu()
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
