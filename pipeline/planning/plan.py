"""What every pipeline stage will need: disk from the shapes, time from measured rates, memory from the parts.

Sizes of feature shards are exact. What depends on the models themselves (programs, PNGs, kernel time) is that of the
few that were measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.curriculum.settings import CurriculumStage
from pipeline.evaluation.evaluate import conditioning_cases, shown_by
from pipeline.planning.measure import Rates
from pipeline.planning.params import Params
from pipeline.planning.sizes import (
    array_bytes,
    encoder_bytes,
    feature_bytes,
    image_shape,
    llm_sizes,
    member_bytes,
    points_shape,
    shard_counts,
    shards_bytes,
)
from pipeline.planning.training_memory import shown_tokens, step_memory

GIB = 1 << 30
LIBRARIES = int(0.6 * GIB)  # torch, transformers and the CAD kernel, once in each process


@dataclass(frozen=True, slots=True)
class Needs:
    """What one pipeline stage needs.

    Attributes:
        disk, memory: bytes; memory is that of all its processes, on the GPU where there is one.
        seconds: on this machine.
        basis: what the figures rest on.
        absent: bytes of memory that the encoders would take at least in a training step, had they not run before.
    """

    name: str
    disk: int
    seconds: float
    memory: int
    basis: str
    absent: int = 0


MFU = 0.5  # of a training step, as `Speed` has it
DECODING_STEP_S = 0.01  # of the smallest model: what transformers does between its matrices
LONGEST_OF_BATCH = 2  # times the mean number of tokens
JUDGEMENT_S = 0.001  # of search
PROGRAM_BYTES = 18_000  # of pictures and meshes in evaluations/, for each program that is written
FIGURES_BYTES = 800  # of one disturbance in metrics/robustness.json


def plan(p: Params, num_models: int, rates: Rates, num_workers: int, counts: list[int] | None = None) -> list[Needs]:
    """The needs of every pipeline stage, in order, for so many models.

    Args:
        counts: samples of each shard, where they are known.
    """
    counts = counts or shard_counts(p, num_models)
    parameters = llm_sizes(p.models.llm).parameters
    points = member_bytes(array_bytes((p.geometry.num_points, 6), "float32"))
    built = f"measured on {rates.num_models} models"
    workers = LIBRARIES * (1 + num_workers)
    batch = encoder_bytes(p, p.geometry.num_views)
    before = [
        Needs("models", int(2 * parameters), 0.0, LIBRARIES + int(4 * parameters), "parameters in 16 bits"),
        Needs("corpus", shards_bytes(sum(rates.corpus_bytes), counts), rates.corpus_s * num_models, workers, built),
        Needs(
            "geometry",
            shards_bytes(points + p.geometry.num_views * rates.png_bytes, counts),
            rates.geometry_s * num_models,
            workers,
            built,
        ),
        Needs(
            "features@image",
            shards_bytes(feature_bytes(image_shape(p), p.features.image.dtype), counts),
            rates.image_s * num_models,
            LIBRARIES + batch["image"],
            f"shape {image_shape(p)} {p.features.image.dtype}",
        ),
        Needs(
            "features@point_cloud",
            shards_bytes(feature_bytes(points_shape(p), p.features.point_cloud.dtype), counts),
            rates.points_s * num_models,
            LIBRARIES + batch["point_cloud"],
            f"shape {points_shape(p)} {p.features.point_cloud.dtype}",
        ),
    ]
    memory = workers + int(4 * parameters)
    training = _training(p, num_models, rates, parameters)
    return [*before, *training, *_measuring(p, num_models, rates, parameters, memory)]


def _text_tokens(p: Params, rates: Rates) -> float:
    return rates.program_tokens + min(rates.caption_tokens, p.model.max_caption_tokens) + 8


def sample_tokens(p: Params, stage: CurriculumStage, rates: Rates) -> float:
    """Positions of a sample, in the mean over what the stage shows."""
    shown = {modality: positions for modality, (_, _, positions) in shown_tokens(p).items()}
    extra = sum(
        share * sum(shown[m] for m in combination.split("+") if m != "text")
        for combination, share in stage.modality_sample_probs.items()
    )
    return _text_tokens(p, rates) + extra


def _training(p: Params, num_models: int, rates: Rates, parameters: float) -> Iterator[Needs]:
    train = num_models * (1 - p.data.split.validation - p.data.split.test)
    text = _text_tokens(p, rates)
    for name, stage in p.curriculum.items():
        batch_size = stage.batch_size(p.training.batch_size)
        samples = train * stage.max_epochs if stage.max_epochs else (stage.steps or 0) * batch_size
        written = stage.rollouts.group_size if stage.objective == "geometry" else 0  # programs for each sample
        tokens = samples * max(1, written) * sample_tokens(p, stage, rates)
        # Forward, and backward through frozen weights: 4 operations for each parameter and token.
        seconds = 4 * parameters * tokens / (rates.flops * MFU)
        if written:
            most = min(stage.rollouts.max_new_tokens, int(LONGEST_OF_BATCH * rates.program_tokens))
            seconds += samples / batch_size * most * _decoding_step_s(parameters, batch_size * written, rates)
        memory = step_memory(p, stage, text)
        basis = f"{tokens / 1e6:.3g} M tokens, {parameters / 1e6:.0f} M parameters"
        disk = int(0.02 * 4 * parameters)
        yield Needs(f"train@{name}", disk, seconds, LIBRARIES + memory.needed, basis, memory.absent)


def _decoding_step_s(parameters: float, rows: int, rates: Rates) -> float:
    """To write a token in each of so many programs."""
    return DECODING_STEP_S + 2 * parameters * rows / (rates.flops * MFU)


def _measuring(p: Params, num_models: int, rates: Rates, parameters: float, memory: int) -> Iterator[Needs]:
    """Evaluation of each curriculum stage, and of the last one on worse inputs and on real models."""
    limits, last = p.evaluation, list(p.curriculum.values())[-1]
    tests = min(limits.num_test_models, int(num_models * p.data.split.test))
    steps = min(limits.max_new_tokens, int(LONGEST_OF_BATCH * rates.program_tokens))

    def seconds(num_tests: int, sets: int) -> float:
        """To generate, improve and measure so many sets of test models; of several candidates all are built."""
        rows = min(limits.batch_size, num_tests) * limits.num_candidates
        step = _decoding_step_s(parameters, rows, rates)
        batches = -(-num_tests // limits.batch_size)
        each = limits.num_candidates * rates.assess_s + limits.search_builds * JUDGEMENT_S
        return sets * (batches * steps * step + num_tests * each)

    def sets_of(stage: CurriculumStage) -> int:
        exchanged = conditioning_cases(stage.combinations) if limits.conditioning else {}
        return len(stage.combinations) + len(exchanged) + int(limits.completion)

    def row(name: str, num_tests: int, sets: int, disk: int, more_s: float = 0.0) -> Needs:
        basis = f"{num_tests * sets} programs; {rates.assess_s:.2g} s to build and measure one"
        return Needs(name, disk, more_s + seconds(num_tests, sets), memory, basis)

    for name, stage in p.curriculum.items():
        sets = sets_of(stage)
        yield row(f"evaluate@{name}", tests, sets, PROGRAM_BYTES * tests * sets)
    worse, combinations = p.robustness, last.combinations
    clouds = len(worse.noise) + len(worse.dropped) if shown_by(combinations, "point_cloud") else 0
    turns = len(worse.rotations_deg) if shown_by(combinations, "image") else 0
    clouds, turns = (levels + 1 if levels else 0 for levels in (clouds, turns))  # one is without a disturbance
    if clouds + turns:
        encoding = tests * (clouds * rates.points_s + turns * (rates.image_s + rates.geometry_s))
        yield row("robustness", tests, clouds + turns, FIGURES_BYTES * (clouds + turns), encoding)
    if rates.num_real:
        prepared = rates.num_real * (rates.corpus_s + rates.geometry_s + rates.image_s + rates.points_s)
        real, sets = min(p.transfer.num_test_models, rates.num_real), sets_of(last)
        yield row("transfer", real, sets, PROGRAM_BYTES * real * sets, prepared)


def alternatives(p: Params, num_models: int, rates: Rates) -> list[tuple[str, int, float]]:
    """Other image features: what is changed, bytes and seconds for so many models."""
    counts, found = shard_counts(p, num_models), []
    grid = int(image_shape(p, pool=1)[1] ** 0.5)
    for views in sorted({1, 2, 4, p.geometry.num_views}):
        for pool in (pool for pool in (1, 2, 4, 8, 16) if grid % pool == 0):
            for dtype in ("float16", "int8"):
                shape = image_shape(p, pool, views)
                disk = shards_bytes(feature_bytes(shape, dtype), counts)
                seconds = rates.image_s / p.geometry.num_views * views * num_models
                found.append((f"{views} views, pool {pool}, {dtype}", disk, seconds))
    return found
