"""What the features stage writes: names, shapes and dtypes, for each encoder and setting, also at full size.

At full size without weights: on the meta device an encoder computes shapes alone. The figures are written out here, so
that no code of the pipeline says what is expected of it.
"""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, BitImageProcessorPil

from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.encoders.michelangelo import MichelangeloConfig, MichelangeloEncoder
from pipeline.execution.workers import Workers
from pipeline.features.build import build_features, make_featurizer
from pipeline.features.settings import ImageFeatures, PointFeatures
from pipeline.features.verify import verify_folder
from pipeline.planning import presets, sizes
from pipeline.planning.params import Params
from pipeline.settings import yaml_files
from pipeline.settings.places import SHIPPED
from pipeline.shards import embeddings
from pipeline.shards.building import write_manifest
from pipeline.shards.manifest import Manifest
from pipeline.shards.writer import encode_array, write_shard
from pipeline.weights.resolve import build_models
from tests.conftest import ROOT
from tests.unit.test_encoders import models, quiet

META = torch.device("meta")

# The published configurations, and what they are prepared with: the shorter side to 256 pixels, the middle 224.
DINOV2 = {"model_type": "dinov2", "image_size": 518, "patch_size": 14, "mlp_ratio": 4}
PUBLISHED = {
    "hub:facebook/dinov2-base": DINOV2 | {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "hub:facebook/dinov2-large": DINOV2 | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "hub:Maikou/Michelangelo/checkpoints/aligned_shape_latents/shapevae-256.ckpt": {
        "model_type": "michelangelo",
        "width": 768,
        "num_heads": 12,
        "num_layers": 8,
        "num_latents": 256,
    },
}
BASE, LARGE, MICHELANGELO = PUBLISHED

# Members of a sample whose embeddings are (…, T, D): the name's end, the dtype on disk, how many axes are left out.
STORED = {
    "float16": [(".npy", "float16", 0)],
    "bfloat16": [(".npy", "uint16", 0)],
    "int8": [(".npy", "int8", 0), ("_scale.npy", "float32", 1)],
}


def expected_members(modality, shape, dtype):
    return {f"{modality}{end}": (shape[: len(shape) - cut], stored) for end, stored, cut in STORED[dtype]}


def described(data):
    """Shape and dtype of ``.npy`` bytes."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    return array.shape, array.dtype.name


@pytest.fixture
def without_weights(monkeypatch):
    """Encoders are made from their configuration, on the meta device."""

    def dinov2(folder, **_):
        with META:
            return AutoModel.from_config(AutoConfig.from_pretrained(folder))

    def michelangelo(folder):
        with META:
            return MichelangeloEncoder(MichelangeloConfig(**json.loads((folder / "config.json").read_text())))

    monkeypatch.setattr(AutoModel, "from_pretrained", dinov2)
    monkeypatch.setattr(MichelangeloEncoder, "from_pretrained", michelangelo)


def place_encoder(models_folder, modality, source):
    """The encoder's folder as the models stage leaves it, less the weights."""
    folder = models_folder / {"image": "image_encoder", "point_cloud": "point_cloud_encoder"}[modality]
    folder.mkdir(parents=True)
    if source.startswith("shipped:"):
        for file in (SHIPPED / source.removeprefix("shipped:")).glob("*config.json"):
            (folder / file.name).write_bytes(file.read_bytes())
        return
    (folder / "config.json").write_text(json.dumps(PUBLISHED[source]))
    if modality == "image":
        crop = {"height": 224, "width": 224}
        BitImageProcessorPil(size={"shortest_edge": 256}, crop_size=crop).save_pretrained(folder)


def check_full_size(models_folder, modality, source, settings, expected, pixels=224, num_views=8):
    """One forward pass of two models on the meta device, and what would be stored of each."""
    place_encoder(models_folder, modality, source)
    featurizer = make_featurizer(modality, models_folder, settings, num_views, META)
    assert all(parameter.device == META for parameter in featurizer.encoder.parameters())
    inputs = (num_views, 3, pixels, pixels) if modality == "image" else (4096, 6)
    tokens = featurizer.encode(torch.empty((2, *inputs), device=META))
    assert tokens.shape == (2, *expected)
    assert featurizer.shape == expected
    for dtype in STORED:
        members = embeddings.members(f"{modality}.npy", np.zeros(expected, np.float32), dtype)
        assert {name: described(data) for name, data in members.items()} == expected_members(modality, expected, dtype)


@pytest.mark.parametrize(
    ("preset", "modality", "source", "expected", "dtype"),
    [
        ("quickstart", "image", "shipped:image_encoder", (8, 4, 192), "float16"),
        ("quickstart", "point_cloud", "shipped:shape_encoder", (32, 192), "float16"),
        ("single-gpu", "image", BASE, (8, 16, 768), "float16"),
        ("single-gpu", "point_cloud", MICHELANGELO, (257, 768), "float16"),
        ("paper", "image", LARGE, (8, 64, 1024), "float16"),
        ("paper", "point_cloud", MICHELANGELO, (257, 768), "float16"),
    ],
)
@torch.inference_mode()
def test_presets_at_full_size(tmp_path, monkeypatch, without_weights, preset, modality, source, expected, dtype):
    monkeypatch.chdir(ROOT)
    p = Params.parse(yaml_files.plain(presets.compose(preset)), preset)
    settings = getattr(p.features, modality)
    assert getattr(p.models, f"{modality}_encoder").source == source
    assert settings.dtype == dtype
    # Drawn views are as large as the encoder sees them.
    pixels = 112 if preset == "quickstart" else 224
    assert (p.geometry.num_views, p.geometry.image_size) == (8, pixels)
    check_full_size(tmp_path, modality, source, settings, expected, pixels)
    planned = sizes.image_shape(p) if modality == "image" else sizes.points_shape(p)
    assert planned == expected


@pytest.mark.parametrize(
    ("source", "pool", "image_size", "expected"),
    [
        (BASE, 1, None, (8, 256, 768)),
        (BASE, 2, None, (8, 64, 768)),
        (BASE, 4, None, (8, 16, 768)),
        (BASE, 16, None, (8, 1, 768)),
        (BASE, 1, 518, (8, 1369, 768)),
        (BASE, 4, 448, (8, 64, 768)),
        (LARGE, 1, None, (8, 256, 1024)),
        (LARGE, 2, None, (8, 64, 1024)),
        (LARGE, 4, None, (8, 16, 1024)),
        (LARGE, 8, 448, (8, 16, 1024)),
    ],
)
@torch.inference_mode()
def test_dinov2_at_full_size(tmp_path, without_weights, source, pool, image_size, expected):
    settings = ImageFeatures(pool=pool, image_size=image_size, batch_size=16, dtype="float16")
    check_full_size(tmp_path, "image", source, settings, expected, image_size or 224)


@pytest.mark.parametrize(("tokens", "expected"), [("all", (257, 768)), ("latents", (256, 768)), ("global", (1, 768))])
@torch.inference_mode()
def test_michelangelo_at_full_size(tmp_path, without_weights, tokens, expected):
    settings = PointFeatures(tokens=tokens, batch_size=2, dtype="float16")
    check_full_size(tmp_path, "point_cloud", MICHELANGELO, settings, expected)


@pytest.mark.parametrize(("source", "pixels"), [("shipped:image_encoder", 112), (BASE, 224), (LARGE, 224)])
def test_views_of_any_size_are_prepared_as_the_encoder_sees_them(tmp_path, without_weights, source, pixels):
    place_encoder(tmp_path, "image", source)
    encoder = DinoV2Encoder(tmp_path / "image_encoder", 1)
    for side in (64, 224, 300):
        prepared = encoder.preprocess([Image.new("RGB", (side, side))] * 2)
        assert prepared.shape == (2, 3, pixels, pixels)
        assert prepared.dtype == torch.float32


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Geometry of three models, two views each, and small encoders: 4 x 4 patches; 3 latents; both 16 wide."""
    folder = tmp_path_factory.mktemp("before")
    rng, picture = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(picture, "PNG")
    views = {f"view{i}.png": picture.getvalue() for i in range(2)}
    clouds = [encode_array(rng.normal(size=(50, 6)).astype(np.float32)) for _ in range(3)]
    samples = ((f"0000{i:08d}_00001", {"points.npy": cloud, **views}) for i, cloud in enumerate(clouds))
    (folder / "geometry").mkdir()
    shard = write_shard(folder / "geometry/train-000000.tar", samples)
    write_manifest(folder / "geometry", "geometry", {}, {"settings": {"num_views": 2}}, [shard])
    build_models(models(), 0, folder / "scratch", folder / "models", quiet)
    return folder


@pytest.mark.parametrize(
    ("modality", "setting", "expected"),
    [
        ("image", {"pool": 1}, (2, 16, 16)),
        ("image", {"pool": 2}, (2, 4, 16)),
        ("image", {"pool": 4}, (2, 1, 16)),
        ("image", {"pool": 2, "image_size": 84}, (2, 9, 16)),
        ("point_cloud", {"tokens": "all"}, (4, 16)),
        ("point_cloud", {"tokens": "latents"}, (3, 16)),
        ("point_cloud", {"tokens": "global"}, (1, 16)),
    ],
)
@pytest.mark.parametrize("dtype", STORED)
def test_members_of_written_shards(before, tmp_path, modality, setting, expected, dtype):
    kind = ImageFeatures if modality == "image" else PointFeatures
    settings, out = kind(**setting, batch_size=2, dtype=dtype), tmp_path / "out"
    places = (before / "geometry", before / "models", settings, torch.device("cpu"), tmp_path / "scratch", out)
    assert build_features(modality, *places, Workers(), quiet)["samples"] == 3
    members = expected_members(modality, expected, dtype)
    with tarfile.open(out / "train-000000.tar") as tar:
        found = {member.name: described(tar.extractfile(member).read()) for member in tar}
    assert found == {f"0000{i:08d}_00001.{name}": field for i in range(3) for name, field in members.items()}
    fields = Manifest.read(out, f"features/{modality}").fields
    assert {name: (tuple(field["shape"]), field["dtype"]) for name, field in fields.items()} == members
    assert fields[f"{modality}.npy"]["encoding"] == dtype
    assert verify_folder(out, 1) == []
