"""A small language model that knows captions and CAD programs: what LoRA is then trained on.

It is a plain Hugging Face causal language model. CAD tokens are tokens of its vocabulary (``<cad8:NEW>``, …), so
``CadMllmModel`` finds the rows that it has learnt for them. Here it learns from text alone, for the study of what the
curriculum's order is worth; the shipped one learns in ``reconstruction``.

Shapes: B samples, L positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.cad.language.grammar import Grammar
from pipeline.model.inputs import tokenise_prompts
from pipeline.model.vocabulary import cad_token_names
from pipeline.pretraining.contrastive import caption_tokenizer
from pipeline.runtime.errors import UserError
from pipeline.runtime.seeds import generator
from pipeline.shards.reader import CorpusReader

IGNORED = -100
POOLED = 16  # batches whose samples are sorted by length together


@dataclass(frozen=True, slots=True)
class TextBatch:
    """(B, L) token ids and labels; labels are ``IGNORED`` where a prompt or padding is."""

    ids: Tensor
    labels: Tensor


class ProgramTexts:
    """Prompts and programs of some models, in the language model's tokens.

    Args:
        rows: of these models in the corpus.
        grammar: of the CAD tokens; None where the captions are learnt themselves, each after its first token.

    Raises:
        UserError: the programs are encoded with other bits.
    """

    def __init__(
        self,
        corpus: CorpusReader,
        rows: np.ndarray,
        tokenizer: Any,
        grammar: Grammar | None,
        max_caption_tokens: int,
    ) -> None:
        self.prompts = tokenise_prompts(tokenizer, [corpus.caption(row) for row in rows], max_caption_tokens)
        self.programs: list[list[int]] = []
        if grammar is None:
            self.prompts, self.programs = [p[:1] for p in self.prompts], [p[1:] for p in self.prompts]
            return
        bits = corpus.manifest.details["codec"]["bits"]
        if bits != grammar.bits:
            raise UserError(f"{corpus.folder} is encoded with {bits} bits, codec.bits is {grammar.bits}")
        vocabulary = tokenizer.get_vocab()
        ids = np.array([vocabulary[name] for name in cad_token_names(grammar)])
        self.programs = [ids[corpus.array(row, "program.npy")].tolist() for row in rows]

    def batch(self, rows: Sequence[int]) -> TextBatch:
        """These samples in one rectangle, padded on the right."""
        sequences = [self.prompts[row] + self.programs[row] for row in rows]
        length = max(len(sequence) for sequence in sequences)
        ids, labels = torch.zeros(len(rows), length, dtype=torch.long), torch.full((len(rows), length), IGNORED)
        for number, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
            ids[number, : len(sequence)] = torch.tensor(sequence)
            start = len(self.prompts[row])
            labels[number, start : len(sequence)] = torch.tensor(self.programs[row])
        return TextBatch(ids, labels)


class SortedBatches:
    """Which samples a step has: every one once in an epoch, samples of like length together, in random order.

    Args:
        lengths: (N,) of all samples.
        size: samples of a step.
    """

    def __init__(self, lengths: np.ndarray, size: int, seed: int) -> None:
        self.lengths, self.size, self.seed = lengths, size, seed
        self._block, self._rows = -1, np.empty((0, 0), int)

    def rows(self, step: int) -> np.ndarray:
        """(size,) the samples of a step."""
        block, place = divmod(step, POOLED)
        if block != self._block:
            self._block, self._rows = block, self._sorted(block)
        found: np.ndarray = self._rows[place]
        return found

    def _sorted(self, block: int) -> np.ndarray:
        """(POOLED, size) samples of the next batches."""
        count = len(self.lengths)
        epochs, places = np.divmod(np.arange(POOLED * self.size) + block * POOLED * self.size, count)
        orders = {epoch: generator(self.seed, "order", epoch).permutation(count) for epoch in set(epochs.tolist())}
        rows = np.array([orders[epoch][at] for epoch, at in zip(epochs.tolist(), places.tolist(), strict=True)])
        rows = rows[np.argsort(self.lengths[rows], kind="stable")].reshape(POOLED, self.size)
        shuffled: np.ndarray = generator(self.seed, "batches", block).permutation(rows)
        return shuffled


class TextBatches:
    """The inputs of each step: like lengths together."""

    def __init__(self, texts: ProgramTexts, batch_size: int, seed: int) -> None:
        self.texts = texts
        lengths = np.array([len(a) + len(b) for a, b in zip(texts.prompts, texts.programs, strict=True)])
        self.order = SortedBatches(lengths, batch_size, seed)

    def __call__(self, step: int) -> TextBatch:
        """The batch of a step."""
        return self.texts.batch(self.order.rows(step).tolist())


class LanguageTraining(nn.Module):
    """The language model, and what is minimised."""

    def __init__(self, llm: Any) -> None:
        super().__init__()
        self.llm = llm

    def loss(self, batch: TextBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy over the tokens of programs."""
        logits, labels = self.llm(batch.ids, use_cache=False).logits[:, :-1], batch.labels[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        with torch.no_grad():
            counted = labels != IGNORED
            right = (logits.argmax(dim=-1) == labels)[counted].float().mean()
        return loss, {"accuracy": right}


def make_language_model(
    architecture: dict[str, Any], captions: Sequence[str], grammar: Grammar | None, vocabulary_size: int, seed: int
) -> tuple[Any, Any]:
    """A tokenizer for captions and CAD tokens, if any, and a model with random weights for it."""
    tokenizer = caption_tokenizer(captions, vocabulary_size, cad_token_names(grammar) if grammar else [])
    settings = {name: value for name, value in architecture.items() if name != "tokenizer"}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**{**settings, "vocab_size": len(tokenizer), "eos_token_id": 0, "pad_token_id": 0})
    return tokenizer, AutoModelForCausalLM.from_config(config)


@torch.inference_mode()
def mean_loss(model: LanguageTraining, texts: ProgramTexts, batch_size: int) -> float:
    """The loss over all tokens of these programs."""
    model.eval()
    total = count = 0.0
    for first in range(0, len(texts.programs), batch_size):
        batch = texts.batch(range(first, min(first + batch_size, len(texts.programs))))
        number = float((batch.labels != IGNORED).sum())
        total += float(model.loss(batch)[0]) * number
        count += number
    return total / count
