"""Memory of a training step from its parts, for each curriculum stage: what it adds, and what absent encoders save.

Shapes: P positions of a micro-batch (``training.tokens_per_batch``), E the language model's width, H inside its MLP.
"""

from dataclasses import dataclass

from pipeline.cad.language.grammar import Grammar
from pipeline.curriculum.settings import CurriculumStage
from pipeline.model.settings import Projector
from pipeline.planning.params import Params
from pipeline.planning.sizes import (
    LlmSizes,
    encoder_bytes,
    image_shape,
    llm_sizes,
    points_shape,
)
from pipeline.report.behaviour import TRAINED_BYTES

FLOAT32 = 4
# What autograd keeps of a decoder layer for each position, in widths: around attention and norms, and inside the MLP,
# which has LoRA or else is a single operation; and what passes, as a share of it. Counted on the package's language
# model; measured peaks there and of SmolLM2-135M are within a fifth.
KEPT_E, KEPT_H, KEPT_H_FUSED = 10, 4, 2
PASSING = 0.25
MLP = ("gate_proj", "up_proj", "down_proj")
CAPTION_TOKENS = {"synthetic": 400, "omnicad": 10_000}  # different ones in all captions, at most about


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes of a training step's parts.

    Attributes:
        weights: frozen, of the language model.
        trained: LoRA, the CAD vocabulary and projectors, with their gradients and moments.
        activations: of the largest micro-batch, in decoder layers and projectors.
        features: of its clouds and pictures.
        absent: what the encoders would add at least if they ran in the step: their weights, and the activations of a
            forward pass over one model.
    """

    weights: int
    trained: int
    activations: int
    features: int
    absent: int

    @property
    def needed(self) -> int:
        """Bytes of a step: all parts but the encoders', which have run before."""
        return self.weights + self.trained + self.activations + self.features


def shown_tokens(p: Params) -> dict[str, tuple[int, int, int]]:
    """Of each modality of a sample: embeddings, their width, and the positions that its projector makes of them."""
    views, points = (p.model.views_per_sample, *image_shape(p)[1:]), points_shape(p)
    given = {"image": (views[0] * views[1], views[2]), "point_cloud": points}
    projectors = {modality: getattr(p.model.projectors, modality) for modality in given}
    return {
        modality: (*sizes, projectors[modality].num_queries if projectors[modality].kind == "resampler" else sizes[0])
        for modality, sizes in given.items()
    }


def step_memory(p: Params, stage: CurriculumStage, text_tokens: float) -> StepMemory:
    """The parts of a step, when its largest micro-batch shows all that the stage has.

    Args:
        text_tokens: positions of a sample's prompt and program.
    """
    llm, shown = llm_sizes(p.models.llm), {m: shown_tokens(p)[m] for m in stage.encoded}
    sample = text_tokens + sum(positions for _, _, positions in shown.values())
    samples = max(1.0, min(p.training.batch_size, p.training.tokens_per_batch / sample))
    positions = min(p.training.tokens_per_batch, samples * sample)
    item = FLOAT32 if p.training.dtype == "float32" else 2
    targets = p.model.lora.target_modules
    kept_h = KEPT_H if set(MLP) & set(targets) else KEPT_H_FUSED
    layer = KEPT_E * llm.width + kept_h * llm.inner + p.model.lora.r * len(targets)
    kept = layer + llm.width * llm.layers if p.training.gradient_checkpointing else layer * llm.layers
    embeddings = sum(samples * tokens * width for tokens, width, _ in shown.values())
    projected = sum(
        samples * made * (2 * getattr(p.model.projectors, m).hidden + llm.width) for m, (_, _, made) in shown.items()
    )
    encoders = encoder_bytes(p, p.model.views_per_sample)
    return StepMemory(
        weights=int(llm.parameters * p.training.weight_bytes),
        trained=TRAINED_BYTES * _trained(p, stage, llm),
        activations=int((1 + PASSING) * positions * kept * item + projected * FLOAT32),
        features=int(embeddings * FLOAT32),
        absent=sum(encoders[modality] for modality in stage.encoded),
    )


def _trained(p: Params, stage: CurriculumStage, llm: LlmSizes) -> int:
    targets = p.model.lora.target_modules
    lora = llm.layers * p.model.lora.r * sum(llm.width + (llm.inner if t in MLP else llm.width) for t in targets)
    rows = 2 * Grammar(p.codec.bits).size * llm.width if p.model.vocabulary == "cad" else 0
    if stage.text_embeddings == "all":
        rows += min(CAPTION_TOKENS[p.data.source], llm.vocabulary) * llm.width
    widths = {modality: width for modality, (_, width, _) in shown_tokens(p).items()}
    projectors = sum(_weights(getattr(p.model.projectors, m), widths[m], llm.width) for m in stage.trained_projectors)
    return lora * stage.train_llm + rows * (stage.text_embeddings != "none") + projectors


def _weights(projector: Projector, width: int, out: int) -> int:
    resampler = projector.num_queries * width + 4 * width**2 if projector.kind == "resampler" else 0
    return resampler + projector.hidden * (width + out)
