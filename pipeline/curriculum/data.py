"""Samples out of shards into batches: only what an example shows is read, and only its caption tokenised."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.language.grammar import Grammar
from pipeline.curriculum.plan import Example, share_out
from pipeline.model.cad_mllm import Batch
from pipeline.model.inputs import Inputs, caption_ids, collate, tokenise_prompts
from pipeline.model.notation import CadNotation, Notation
from pipeline.runtime.errors import UserError
from pipeline.runtime.prefetch import prefetch
from pipeline.shards.reader import CorpusReader, ShardReader

MEMBERS = {"point_cloud": "point_cloud.npy", "image": "image.npy"}
UNKNOWN = -1
CAPTIONS = 4096  # that are looked at together


class TrainingData:
    """One split of the corpus with the features that go with it. Samples go by their number in it, their row.

    Args:
        corpus: folder of the corpus.
        features: folder of each modality that is shown; others are not touched.
        split: ``train``, ``validation`` or ``test``.
        notation: how programs are written to the model.

    Attributes:
        rows: (N,) of each sample in the corpus' index.
        feature_rows: (N,) of each sample in that of each modality.

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
        self.tokenizer, self.max_caption_tokens, self.notation = tokenizer, max_caption_tokens, notation
        self.corpus = CorpusReader(corpus)
        self.features = {modality: ShardReader(folder, f"features/{modality}") for modality, folder in features.items()}
        self.rows = self.corpus.rows(split)
        keys = self.corpus.index["key"][self.rows]
        self.feature_rows = {modality: reader.find(keys) for modality, reader in self.features.items()}
        # Their tokens by the index; what other notations make of them is found as it is needed.
        is_cad = isinstance(notation, CadNotation)
        self._num_targets = self.corpus.index["program_tokens"][self.rows] if is_cad else np.full(len(keys), UNKNOWN)
        lacking = np.zeros(len(keys), bool)
        for found in self.feature_rows.values():
            lacking |= found < 0
        self.keep(~lacking)
        if len(keys) and not len(self):
            raise UserError(
                f"none of the {len(keys)} samples of {split} has features; were they made from this corpus?"
            )
        self.instruction = tokenise_prompts(tokenizer, [""], max_caption_tokens)[0]

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, rows: Sequence[int] | np.ndarray) -> None:
        """Leave out all samples but these: their rows, or which of all they are."""
        self.rows, self._num_targets = self.rows[rows], self._num_targets[rows]
        self.feature_rows = {modality: found[rows] for modality, found in self.feature_rows.items()}

    @property
    def names(self) -> np.ndarray:
        """(N,) uint64 digests of the samples' keys, which what is drawn for them follows from."""
        digests: np.ndarray = self.corpus.index["digest"][self.rows]
        return digests

    @property
    def bits(self) -> int:
        """Bits of the corpus' codec."""
        return int(self.corpus.manifest.details["codec"]["bits"])

    def key(self, row: int) -> str:
        """The key of a sample."""
        return self.corpus.key(self.rows[row])

    def id(self, row: int) -> str:
        """The id of a sample."""
        return self.corpus.id(self.rows[row])

    def caption(self, row: int) -> str:
        """The caption of a sample."""
        return self.corpus.caption(self.rows[row])

    def shape(self, modality: str) -> tuple[int, ...]:
        """Shape of one sample's features."""
        return tuple(self.features[modality].manifest.fields[MEMBERS[modality]]["shape"])

    def program(self, row: int) -> np.ndarray:
        """CAD token ids of a sample."""
        return self.corpus.array(self.rows[row], "program.npy")

    def feature(self, row: int, modality: str, parts: Sequence[int] | None = None) -> np.ndarray:
        """Features of a sample; of images only some views, where ``parts`` says which."""
        return self.features[modality].embeddings(self.feature_rows[modality][row], MEMBERS[modality], parts)

    def num_targets(self, rows: np.ndarray) -> np.ndarray:
        """(n,) tokens of the programs of samples (n,), as they are written to the model."""
        for row in rows[self._num_targets[rows] == UNKNOWN].tolist():
            self._num_targets[row] = len(self._written(row))
        found: np.ndarray = self._num_targets[rows]
        return found

    def _written(self, row: int) -> list[int]:
        return self.notation.write(self.program(row).tolist())

    def tokenised(self, rows: Sequence[int]) -> list[list[int]]:
        """Token ids of instruction and caption of samples."""
        return tokenise_prompts(self.tokenizer, [self.caption(row) for row in rows], self.max_caption_tokens)

    def text_ids(self) -> set[int]:
        """All token ids in the split's captions, cut off or not, and in the instruction."""
        rows = np.asarray(self.rows)
        blocks = (self.corpus.captions(rows[at : at + CAPTIONS]) for at in range(0, len(rows), CAPTIONS))
        with closing(prefetch(blocks)) as ready:
            return {*self.instruction, *caption_ids(self.tokenizer, ready)}

    def prompts(self, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of instruction and caption of each example; of the instruction alone where it shows no text."""
        found = iter(self.tokenised([example.row for example in examples if example.shows("text")]))
        return [next(found) if example.shows("text") else self.instruction for example in examples]

    def lengths(
        self, examples: Sequence[Example], prompts: Sequence[Sequence[int]], num_tokens: dict[str, int]
    ) -> list[int]:
        """Positions that the sequence of each example takes, given its prompt; ``num_tokens`` as for ``collate``."""
        return [
            len(prompt) + example.num_targets + sum(n for modality, n in num_tokens.items() if example.shows(modality))
            for example, prompt in zip(examples, prompts, strict=True)
        ]

    def _inputs(self, example: Example, prompt: Sequence[int], with_program: bool = True) -> Inputs:
        return Inputs(
            prompt=prompt,
            program=self._written(example.row) if with_program else [],
            points=self.feature(example.row, "point_cloud") if example.shows("point_cloud") else None,
            image=self.feature(example.row, "image", example.views) if example.shows("image") else None,
            views=example.views,
        )

    def _fetch(self, examples: Sequence[Example], members: Sequence[str] = ()) -> None:
        """Say of what examples show, and of these members of the corpus, that it will be read."""
        self.corpus.fetch((self.rows[example.row], member, None) for example in examples for member in members)
        for modality, reader in self.features.items():
            rows, shown = self.feature_rows[modality], (each for each in examples if each.shows(modality))
            reader.fetch((rows[e.row], MEMBERS[modality], e.views if modality == "image" else None) for e in shown)

    def load(self, examples: Sequence[Example], with_programs: bool = True) -> list[Inputs]:
        """Read what examples show."""
        self._fetch(examples, ("caption", "program.npy"))
        prompts = self.prompts(examples)
        return [self._inputs(*each, with_programs) for each in zip(examples, prompts, strict=True)]

    def batches(
        self, examples: Sequence[Example], tokens_per_batch: int, num_tokens: dict[str, int], rank: int, num_ranks: int
    ) -> Iterator[tuple[Batch, float]]:
        """What one of several processes computes of these examples: batches within the budget, and their weight.

        One for which none is left repeats an example with weight 0, so that all processes are in step.

        Args:
            num_tokens: as for ``collate``.
        """
        self.corpus.fetch((self.rows[each.row], "caption", None) for each in examples if each.shows("text"))
        prompts = self.prompts(examples)
        lengths = self.lengths(examples, prompts, num_tokens)
        mine = share_out(lengths, tokens_per_batch, num_ranks)[rank::num_ranks]
        self._fetch([examples[number] for micro in mine for number in micro or [0]], ("program.npy",))
        for micro in mine:
            inputs = [self._inputs(examples[number], prompts[number]) for number in micro or [0]]
            yield collate(inputs, num_tokens), 1.0 if micro else 0.0


def check_codec(data: TrainingData, grammar: Grammar) -> None:
    """Raise ``UserError`` where a corpus was encoded with other bits than the model's vocabulary."""
    if data.bits != grammar.bits:
        raise UserError(f"the corpus is encoded with {data.bits} bits, the model's vocabulary has {grammar.bits}")
