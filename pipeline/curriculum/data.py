"""Samples out of shards into batches: only what an example shows is read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.language.grammar import Grammar
from pipeline.curriculum.plan import Example, Lengths, cut
from pipeline.model.cad_mllm import Batch
from pipeline.model.inputs import Inputs, collate, tokenise_prompts
from pipeline.model.notation import CadNotation, Notation
from pipeline.runtime.errors import UserError
from pipeline.shards.reader import IndexRow, ShardReader, read_index

MEMBERS = {"point_cloud": "point_cloud.npy", "image": "image.npy"}


class TrainingData:
    """One split of the corpus with the features that go with it.

    Args:
        corpus: folder of the corpus.
        features: folder of each modality that is shown; others are not touched.
        split: ``train``, ``validation`` or ``test``.
        notation: how programs are written to the model.

    Raises:
        UserError: something is missing or does not belong together. Samples that a modality rejected are left out.
    """

    def __init__(
        self,
        corpus: Path,
        features: dict[str, Path],
        split: str,
        tokenizer: Any,
        max_caption_tokens: int,
        notation: Notation,
    ) -> None:
        self.notation = notation
        self.corpus = ShardReader(corpus, "corpus")
        self.features = {modality: ShardReader(folder, f"features/{modality}") for modality, folder in features.items()}
        rows = read_index(corpus, split)
        self.rows: list[IndexRow] = [
            row for row in rows if all(reader.has(row.shard, row.key) for reader in self.features.values())
        ]
        if rows and not self.rows:
            raise UserError(
                f"none of the {len(rows)} samples of {split} has features; were they made from this corpus?"
            )
        self.prompts = tokenise_prompts(tokenizer, [row.caption for row in self.rows], max_caption_tokens)
        self.instruction = tokenise_prompts(tokenizer, [""], max_caption_tokens)[0]

    @property
    def keys(self) -> list[str]:
        return [row.key for row in self.rows]

    @property
    def bits(self) -> int:
        """Bits of the corpus' codec."""
        return int(self.corpus.manifest.details["codec"]["bits"])

    def shape(self, modality: str) -> tuple[int, ...]:
        """Shape of one sample's features."""
        return tuple(self.features[modality].manifest.fields[MEMBERS[modality]]["shape"])

    def lengths(self, modalities: dict[str, int]) -> Lengths:
        """What ``curriculum`` plans with."""
        prompts = [len(prompt) for prompt in self.prompts]
        if isinstance(self.notation, CadNotation):
            programs = [row.program_tokens for row in self.rows]
        else:
            programs = [len(self.notation.write(self.program(row).tolist())) for row in range(len(self.rows))]
        return Lengths(prompts, programs, modalities, len(self.instruction))

    def program(self, row: int) -> np.ndarray:
        """CAD token ids of a sample."""
        where = self.rows[row]
        return self.corpus.array(where.shard, where.key, "program.npy")

    def load(self, example: Example, with_program: bool = True) -> Inputs:
        """Read what an example shows."""
        where = self.rows[example.row]
        shown = example.combination.split("+")

        def feature(modality: str) -> np.ndarray:
            return self.features[modality].embeddings(where.shard, where.key, MEMBERS[modality])

        return Inputs(
            prompt=self.prompts[example.row] if "text" in shown else self.instruction,
            program=self.notation.write(self.program(example.row).tolist()) if with_program else [],
            points=feature("point_cloud") if "point_cloud" in shown else None,
            image=feature("image")[list(example.views)] if "image" in shown else None,
            views=example.views,
        )

    def batch(self, examples: Sequence[Example], num_tokens: dict[str, int]) -> Batch:
        """The batch of these examples; ``num_tokens`` as for ``collate``."""
        return collate([self.load(example) for example in examples], num_tokens)

    def batches(
        self, examples: Sequence[Example], tokens_per_batch: int, num_tokens: dict[str, int], rank: int, num_ranks: int
    ) -> Iterator[tuple[Batch, float]]:
        """What one of several processes computes of these examples: batches within the budget, and their weight.

        One for which none is left repeats an example with weight 0, so that all processes are in step.
        """
        for micro in cut(examples, tokens_per_batch, num_ranks)[rank::num_ranks]:
            yield self.batch(micro or examples[:1], num_tokens), 1.0 if micro else 0.0


def check_codec(data: TrainingData, grammar: Grammar) -> None:
    """Raise ``UserError`` where a corpus was encoded with other bits than the model's vocabulary."""
    if data.bits != grammar.bits:
        raise UserError(f"the corpus is encoded with {data.bits} bits, the model's vocabulary has {grammar.bits}")
