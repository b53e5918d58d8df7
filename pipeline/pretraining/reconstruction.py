"""The point cloud encoder and the language model together: programs from clouds of their own solids.

Clouds are drawn anew each time, from the program and without the kernel, with the faults of a scan: so the encoder
learns what a program is read from, and a model is never seen twice the same.

Shapes: B samples, N points, L positions, S tokens of a cloud, E the language model's width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.grammar import Grammar
from pipeline.cad.solids.boundary import sample_boundary
from pipeline.encoders.michelangelo import MichelangeloEncoder
from pipeline.model.inputs import tokenise_prompts
from pipeline.model.projector import ModalityProjector
from pipeline.model.vocabulary import cad_token_names
from pipeline.pretraining.language import IGNORED, SortedBatches, make_language_model
from pipeline.pretraining.loop import on_device
from pipeline.pretraining.scans import scanned
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import uniform
from pipeline.settings.recipes import ReconstructionPretraining
from pipeline.settings.training import Projector
from pipeline.shards.reader import CorpusReader

SPARE = 2  # so many points are drawn for each that is shown: a scan's faults take some away


class Ragged:
    """Many short sequences in two arrays, which processes share without a copy."""

    def __init__(self, sequences: Sequence[Sequence[int] | np.ndarray]) -> None:
        self.lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        self.ends = np.cumsum(self.lengths)
        self.values = np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences])

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.ends[row] - self.lengths[row] : self.ends[row]]


@dataclass(frozen=True, slots=True)
class ReconstructionBatch:
    """(B, L) token ids and labels, ``IGNORED`` where a prompt or padding is; (B, N, 6) clouds, or none."""

    ids: Tensor
    labels: Tensor
    points: Tensor | None


class ReconstructionBatches:
    """The inputs of each step: every model once in an epoch, like lengths together.

    Args:
        captions: of each model.
        programs: CAD tokens of each, as ``codec`` has them.
        tokenizer: of captions and CAD tokens.
    """

    def __init__(
        self,
        captions: Sequence[str],
        programs: Sequence[np.ndarray],
        tokenizer: Any,
        max_caption_tokens: int,
        codec: Codec,
        recipe: ReconstructionPretraining,
        seed: int,
    ) -> None:
        prompts = tokenise_prompts(tokenizer, ["", *captions], max_caption_tokens)
        self.instruction, self.prompts, self.programs = np.asarray(prompts[0]), Ragged(prompts[1:]), Ragged(programs)
        vocabulary = tokenizer.get_vocab()
        self.cad_ids = np.array([vocabulary[name] for name in cad_token_names(codec.grammar)])
        self.codec, self.recipe, self.seed = codec, recipe, seed
        self.order = SortedBatches(self.programs.lengths, recipe.batch_size, seed)

    @classmethod
    def of_split(cls, corpus: CorpusReader, split: str, *described: Any) -> "ReconstructionBatches":
        """Those of a split of the corpus; what follows the programs is as above."""
        rows = corpus.rows(split)
        captions, programs = [corpus.caption(row) for row in rows], [corpus.array(row, "program.npy") for row in rows]
        return cls(captions, programs, *described)

    def __call__(self, step: int) -> ReconstructionBatch:
        """The batch of a step. A model whose cloud cannot be drawn is left out."""
        combination = self.combination(step)
        return self.batch(self.order.rows(step), combination, step)

    def combination(self, step: int) -> str:
        """What a step shows."""
        drawn, total = uniform(self.seed, "combination", step), 0.0
        for name, share in self.recipe.modality_sample_probs.items():
            total += share
            if drawn < total:
                return name
        return name

    def batch(self, rows: np.ndarray, combination: str, step: int) -> ReconstructionBatch:
        """These models in one rectangle, padded on the right."""
        shown = combination.split("+")
        clouds: list[np.ndarray] = []
        sequences, starts = [], []
        for row in rows.tolist():
            program = self.programs[row]
            if "point_cloud" in shown:
                cloud = self.cloud(program, np.random.default_rng([self.seed, 5, step, row]))
                if cloud is None:
                    continue
                clouds.append(cloud)
            prompt = self.prompts[row] if "text" in shown else self.instruction
            sequences.append(np.concatenate([prompt, self.cad_ids[program]]))
            starts.append(len(prompt))
        shape = (len(sequences), max(map(len, sequences)))
        ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED)
        for number, (start, sequence) in enumerate(zip(starts, sequences, strict=True)):
            ids[number, : len(sequence)] = sequence
            labels[number, start : len(sequence)] = sequence[start:]
        points = torch.from_numpy(np.stack(clouds)) if clouds else None
        return ReconstructionBatch(torch.from_numpy(ids), torch.from_numpy(labels), points)

    def cloud(self, program: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """(N, 6) a scan of a program's solid; None where the solid is empty."""
        number = self.recipe.num_points
        try:
            drawn = sample_boundary(self.codec.decode(program), SPARE * number, int(rng.integers(2**63)))
        except RejectError:
            return None
        return scanned(drawn, number, rng)


class ReconstructionTraining(nn.Module):
    """An encoder, the projector that the curriculum can begin with, and a language model."""

    def __init__(self, encoder: MichelangeloEncoder, projector: Projector, llm: Any) -> None:
        super().__init__()
        shape = (1 + encoder.config.num_latents, encoder.config.width)
        self.encoder, self.llm = encoder, llm
        self.projector = ModalityProjector(projector, shape, llm.config.hidden_size, llm.config.initializer_range)

    def loss(self, batch: ReconstructionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy over the tokens of programs, and the share of them that is right."""
        embedded_BLE = self.llm.get_input_embeddings()(batch.ids)
        if batch.points is not None:
            embedded_BLE = torch.cat([self.projector(self.encoder(batch.points), None), embedded_BLE], dim=1)
        hidden_BLE = self.llm.model(inputs_embeds=embedded_BLE, use_cache=False).last_hidden_state
        labels = batch.labels[:, 1:]
        counted = labels != IGNORED
        logits = self.llm.lm_head(hidden_BLE[:, -batch.ids.shape[1] : -1][counted])
        loss = F.cross_entropy(logits.float(), labels[counted])
        with torch.no_grad():
            right = (logits.argmax(dim=-1) == labels[counted]).float().mean()
        name = "text" if batch.points is None else "points"
        return loss, {"accuracy": right, name: loss.detach()}


def make_reconstruction(
    encoder: MichelangeloEncoder,
    projector: Projector,
    architecture: dict[str, Any],
    captions: Sequence[str],
    grammar: Grammar,
    vocabulary_size: int,
    seed: int,
) -> tuple[Any, ReconstructionTraining]:
    """A tokenizer for captions and CAD tokens, and the encoder with a language model of random weights."""
    tokenizer, llm = make_language_model(architecture, captions, grammar, vocabulary_size, seed)
    torch.manual_seed(seed)
    return tokenizer, ReconstructionTraining(encoder, projector, llm)


@torch.inference_mode()
def mean_losses(module: ReconstructionTraining, batches: ReconstructionBatches) -> dict[str, float]:
    """The loss over all programs' tokens of a split, for each combination, faults of a scan included."""
    module.eval()
    device, rows = module.llm.device, np.argsort(batches.programs.lengths, kind="stable")
    found: dict[str, float] = {}
    for combination in batches.recipe.modality_sample_probs:
        total = count = 0.0
        for first in range(0, len(rows), batches.recipe.batch_size):
            batch = on_device(batches.batch(rows[first : first + batches.recipe.batch_size], combination, 0), device)
            number = float((batch.labels[:, 1:] != IGNORED).sum())
            total += float(module.loss(batch)[0]) * number
            count += number
        found[combination] = round(total / count, 4)
    return found
