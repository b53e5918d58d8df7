"""Out of memory, on a GPU or a CPU: one message that names the parameters with which less of it is needed."""

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pipeline.runtime.errors import UserError
from pipeline.settings.curriculum import CurriculumStage
from pipeline.settings.data import ImageFeatures, PointFeatures
from pipeline.settings.params import Evaluation, Params
from pipeline.settings.training import Training

# CUDA's own words, malloc's in torch and in the kernel, cuBLAS'.
SIGNS = ("out of memory", "allocate memory", "alloc_failed")
ALLOCATOR = "DefaultCPUAllocator: "  # what torch says before it is of no use to anybody


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, however its library puts it."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def explained(work: Callable[[], str], remedies: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Around work that can run out of memory.

    Args:
        work: in words, what was being done.
        remedies: what can be done about it, a line each.

    Raises:
        UserError: memory ran out; with both.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what filled it
        said = str(error).rpartition(ALLOCATOR)[2].strip().partition("\n")[0] or "no more of it is given"
        lines = "".join(f"\n  {line}" for line in remedies())
        raise UserError(f"out of memory {work()}\n({said})\nWhat helps, one or several:{lines}") from None


def for_model(p: Params, num_processes: int, gpu: bool) -> Iterator[str]:
    """With what the language model takes less memory; lines that change nothing here are left out."""
    training = p.training
    if training.quantization == "none":
        if training.dtype == "float32":
            yield "training.dtype: bfloat16 (half of what float32 takes)"
        yield "training.quantization: nf4 (a quarter of what bfloat16 takes; needs bitsandbytes)"
    if gpu and training.dtype != "float16" and (training.distributed == "ddp" or num_processes == 1):
        yield "training.distributed: fsdp2 and `cadmllm train STAGE --nproc N` (each of N GPUs has a part of the model)"
    yield "models.llm: a smaller language model, such as hub:Qwen/Qwen3-0.6B"


def for_training(
    p: Params, stage: CurriculumStage, largest: tuple[int, int], num_processes: int, gpu: bool
) -> Iterator[str]:
    """With what a training step takes less memory, the cheapest first.

    Args:
        largest: samples and positions of its largest micro-batch.
    """
    training, model = p.training, p.model
    num_samples, positions = largest
    if num_samples > 1:
        yield (
            f"training.tokens_per_batch: {positions // 2} or less (now {training.tokens_per_batch}): as many samples "
            "in a step, in more micro-batches"
        )
    if not training.gradient_checkpointing:
        yield "training.gradient_checkpointing: true (activations are computed twice instead of kept)"
    if "image" in stage.modalities:
        if model.views_per_sample > 1:
            yield f"model.views_per_sample: less than {model.views_per_sample}"
        yield f"features.image.pool: more than {p.features.image.pool} (fewer tokens for each view)"
    if "point_cloud" in stage.modalities and p.features.point_cloud.tokens != "global":
        yield f"features.point_cloud.tokens: global (now {p.features.point_cloud.tokens})"
    if stage.text_embeddings == "all":
        yield "text_embeddings: new, in the stage (no rows of the captions' words are trained)"
    if stage.train_llm and model.lora.r > 1:
        yield f"model.lora.r: less than {model.lora.r}"
    yield from for_model(p, num_processes, gpu)


def for_evaluation(limits: Evaluation, training: Training) -> Iterator[str]:
    """With what writing and scoring programs takes less memory, and the validation loss."""
    if limits.batch_size > 1:
        yield f"evaluation.batch_size: less than {limits.batch_size}"
    if limits.num_candidates > 1:
        yield f"evaluation.num_candidates: less than {limits.num_candidates}"
    yield f"evaluation.max_new_tokens: less than {limits.max_new_tokens}"
    yield f"training.tokens_per_batch: less than {training.tokens_per_batch} (of the validation loss's batches, too)"


FOR_ONE_PROMPT = (
    "fewer --candidates or --beams, a smaller --max-tokens",
    "a checkpoint of a smaller language model, or of one with training.dtype: bfloat16",
)


def for_features(modality: str, settings: ImageFeatures | PointFeatures, gpu: bool) -> Iterator[str]:
    """With what an encoder takes less memory."""
    if gpu and settings.batch_size > 1:  # a CPU takes one model at a time
        yield f"features.{modality}.batch_size: less than {settings.batch_size}"
    if isinstance(settings, ImageFeatures):
        yield "features.image.image_size: fewer pixels (a multiple of the encoder's patch)"
    else:
        yield "geometry.num_points: fewer"
    yield f"models.{modality}_encoder: a smaller one"
