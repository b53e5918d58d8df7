"""Programs from clouds of their own solids, from pictures of these and from captions.

First the point cloud encoder learns together with the language model: what a program is read from. Once it is finished,
the language model goes on, with what the image encoder makes of pictures as well. Clouds are drawn anew each time, from
the program and without the kernel, with the faults of a scan: a model is never seen twice the same.

Shapes: B samples, N points, L positions, M models, V views of each and v of them shown, T tokens of a view, D the image
encoder's width, E the language model's.
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
from pipeline.model.settings import Projector
from pipeline.model.vocabulary import cad_token_names
from pipeline.pretraining.language import IGNORED, SortedBatches, make_language_model
from pipeline.pretraining.loop import on_device
from pipeline.pretraining.scans import scanned
from pipeline.pretraining.settings import LanguagePretraining, ReconstructionPretraining
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator, uniform
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
    """(B, L) token ids and labels, ``IGNORED`` where a prompt or padding is; (B, N, 6) clouds, or none; (B, v, T, D)
    tokens of pictures with the numbers (B, v) of their views, or none.
    """

    ids: Tensor
    labels: Tensor
    points: Tensor | None = None
    images: Tensor | None = None
    views: Tensor | None = None


class ReconstructionBatches:
    """The inputs of each step: every model once in an epoch, like lengths together.

    Args:
        captions: of each model.
        programs: CAD tokens of each, as ``codec`` has them.
        tokenizer: of captions and CAD tokens.
        pictures: (M, V, T, D) what the image encoder makes of each model's views, where some are shown.
    """

    def __init__(
        self,
        captions: Sequence[str],
        programs: Sequence[np.ndarray],
        tokenizer: Any,
        max_caption_tokens: int,
        codec: Codec,
        recipe: ReconstructionPretraining | LanguagePretraining,
        seed: int,
        pictures: np.ndarray | None = None,
    ) -> None:
        prompts = tokenise_prompts(tokenizer, ["", *captions], max_caption_tokens)
        self.instruction, self.prompts, self.programs = np.asarray(prompts[0]), Ragged(prompts[1:]), Ragged(programs)
        vocabulary = tokenizer.get_vocab()
        self.cad_ids = np.array([vocabulary[name] for name in cad_token_names(codec.grammar)])
        self.codec, self.recipe, self.seed, self.pictures = codec, recipe, seed, pictures
        self.order = SortedBatches(self.programs.lengths, recipe.batch_size, seed)

    @classmethod
    def of_rows(cls, corpus: CorpusReader, rows: np.ndarray, *described: Any) -> "ReconstructionBatches":
        """Those of some models of the corpus; what follows the programs is as above."""
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
        shown, models, points = combination.split("+"), rows.tolist(), None
        if "point_cloud" in shown:
            drawn = {row: self.cloud(self.programs[row], generator(self.seed, "cloud", step, row)) for row in models}
            clouds = {row: cloud for row, cloud in drawn.items() if cloud is not None}
            models, points = list(clouds), torch.from_numpy(np.stack(list(clouds.values())))
        images, views = self._pictures(models, step) if "image" in shown else (None, None)
        prompts = [self.prompts[row] if "text" in shown else self.instruction for row in models]
        programs = [self.cad_ids[self.programs[row]] for row in models]
        shape = (len(models), max(len(a) + len(b) for a, b in zip(prompts, programs, strict=True)))
        ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED)
        for number, (prompt, program) in enumerate(zip(prompts, programs, strict=True)):
            end = len(prompt) + len(program)
            ids[number, :end] = np.concatenate([prompt, program])
            labels[number, len(prompt) : end] = program
        return ReconstructionBatch(torch.from_numpy(ids), torch.from_numpy(labels), points, images, views)

    def _pictures(self, models: list[int], step: int) -> tuple[Tensor, Tensor]:
        """Tokens and numbers of some views of each model; how many is drawn for the step."""
        assert self.pictures is not None
        assert isinstance(self.recipe, LanguagePretraining)
        rng = generator(self.seed, "pictures", step)
        number = int(rng.integers(self.recipe.num_views)) + 1
        views = np.stack([np.sort(rng.permutation(self.pictures.shape[1])[:number]) for _ in models])
        tokens = self.pictures[np.array(models)[:, None], views].astype(np.float32)
        return torch.from_numpy(tokens), torch.from_numpy(views)

    def cloud(self, program: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """(N, 6) a scan of a program's solid; None where the solid is empty."""
        number = self.recipe.num_points
        try:
            drawn = sample_boundary(self.codec.decode(program), SPARE * number, rng)
        except RejectError:
            return None
        return scanned(drawn, number, rng)


class ReconstructionTraining(nn.Module):
    """A point cloud encoder, a language model, and the projectors that the curriculum can begin with.

    Args:
        projectors: of each modality that is shown.
    """

    def __init__(self, encoder: MichelangeloEncoder, projectors: dict[str, ModalityProjector], llm: Any) -> None:
        super().__init__()
        self.encoder, self.projectors, self.llm = encoder, nn.ModuleDict(projectors), llm

    def loss(self, batch: ReconstructionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy over the tokens of programs, and the share of them that is right."""
        seen = {}  # in the order in which the model is shown them
        if batch.images is not None:
            seen["image"] = self.projectors["image"](batch.images, batch.views)
        if batch.points is not None:
            seen["point_cloud"] = self.projectors["point_cloud"](self.encoder(batch.points), None)
        embedded_BLE = torch.cat([*seen.values(), self.llm.get_input_embeddings()(batch.ids)], dim=1)
        hidden_BLE = self.llm.model(inputs_embeds=embedded_BLE, use_cache=False).last_hidden_state
        labels = batch.labels[:, 1:]
        counted = labels != IGNORED
        logits = self.llm.lm_head(hidden_BLE[:, -batch.ids.shape[1] : -1][counted])
        loss = F.cross_entropy(logits.float(), labels[counted])
        with torch.no_grad():
            right = (logits.argmax(dim=-1) == labels[counted]).float().mean()
        return loss, {"accuracy": right, "+".join(seen) or "text": loss.detach()}


def new_projector(params: Projector, shape: tuple[int, ...], llm: Any) -> ModalityProjector:
    """One with random weights, from features of this shape into a language model."""
    return ModalityProjector(params, shape, llm.config.hidden_size, llm.config.initializer_range)


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
    shape = (1 + encoder.config.num_latents, encoder.config.width)
    return tokenizer, ReconstructionTraining(encoder, {"point_cloud": new_projector(projector, shape, llm)}, llm)


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
