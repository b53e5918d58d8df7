"""What helps where memory runs out in training."""

from collections.abc import Iterator, Mapping

from pipeline.curriculum.settings import CurriculumStage, Training
from pipeline.training.settings import TrainSections


def for_model(training: Training, num_processes: int, gpu: bool) -> Iterator[str]:
    """With what the language model takes less memory; lines that change nothing here are left out."""
    if training.quantization == "none":
        if training.dtype == "float32":
            yield "training.dtype: bfloat16 (half of what float32 takes)"
        yield "training.quantization: nf4 (a quarter of what bfloat16 takes; needs bitsandbytes)"
    if gpu and training.dtype != "float16" and (training.distributed == "ddp" or num_processes == 1):
        yield "training.distributed: fsdp2 and `cadmllm train STAGE --nproc N` (each of N GPUs has a part of the model)"
    yield "models.llm: a smaller language model, such as hub:Qwen/Qwen3-0.6B"


def for_training(
    p: TrainSections,
    stage: CurriculumStage,
    shapes: Mapping[str, tuple[int, ...]],
    largest: tuple[int, int],
    num_processes: int,
    gpu: bool,
) -> Iterator[str]:
    """With what a training step takes less memory, the cheapest first.

    Args:
        shapes: of a sample's features: ``image`` (V, T, D), ``point_cloud`` (T, D).
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
        if shapes["image"][1] > 1:
            yield f"features.image.pool: more (fewer than {shapes['image'][1]} tokens for each view)"
    if "point_cloud" in stage.modalities and shapes["point_cloud"][0] > 1:
        yield f"features.point_cloud.tokens: global (one in place of {shapes['point_cloud'][0]})"
    if stage.text_embeddings == "all":
        yield "text_embeddings: new, in the stage (no rows of the captions' words are trained)"
    if stage.train_llm and model.lora.r > 1:
        yield f"model.lora.r: less than {model.lora.r}"
    yield from for_model(training, num_processes, gpu)
