"""What goes wrong is told in one message, and nothing finished is lost."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.shards.manifest import Manifest, read_rejects
from tests.func.conftest import make_project

pytestmark = pytest.mark.xdist_group("bad_input")  # one process makes the project that these tests share


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("bad"))


def refused(project, *arguments):
    """What a command says that fails, stages too: they fail before they work."""
    output = project.call(*arguments, code=1)
    assert output.count("error:") == 1
    return output


def test_stages_without_their_inputs_say_what_to_run(project):
    assert "data/geometry/manifest.json is missing" in refused(project, "features", "--modality", "image")
    assert "data/corpus" in refused(project, "geometry")
    assert "run `cadmllm models` first" in refused(project, "train", "stage1_text")
    assert "run `cadmllm train stage1_text` first" in refused(project, "train", "stage2_text_pc")
    assert "there are stage1_text" in refused(project, "train", "stage9")
    assert "cadmllm train stage1_text" in refused(project, "report")


def test_bad_parameters_are_all_told(project):
    text = project.read("params.yaml").decode()
    project.change("bits: 8", "bits: 99")
    project.change("num_points: 256", "num_pints: 256")
    try:
        output = refused(project, "corpus")
        for part in ("codec.bits", "geometry.num_pints: unknown key", "geometry.num_points"):
            assert part in output
    finally:
        (project.folder / "params.yaml").write_text(text)


def write_dataset(folder, count):
    rows = []
    for number in range(count):
        entry = f"0000/{number:08d}_00001"
        part = synthesis.make_part(0, number, tuple(synthesis.FAMILIES))
        path = folder / f"json/{entry}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(documents.dumps(part.program))
        rows.append({"id": entry, "text caption": part.caption})
    (folder / "txt").mkdir()
    (folder / "txt/0000.json").write_text(json.dumps(rows))


def test_a_damaged_dataset_costs_its_damaged_models_alone(project):
    raw = project.folder / "data/raw/Omni-CAD"
    project.change("source: synthetic", "source: omnicad")
    assert "run `cadmllm models`" in refused(project, "corpus")
    project.call("models")
    assert "neither a folder nor a readable zip" in refused(project, "corpus")
    project.change("path: data/raw/README.md", "path: data/raw/Omni-CAD")
    assert "does not exist" in refused(project, "corpus")
    raw.mkdir(parents=True)
    assert "not an Omni-CAD dataset" in refused(project, "corpus")
    write_dataset(raw, 30)
    files = sorted((raw / "json/0000").iterdir())
    files[3].write_bytes(b"")
    files[4].write_bytes(files[4].read_bytes()[:500])
    files[5].write_text('{"entities": {}, "sequence": []}')
    files[6].unlink()
    (raw / "json/0000/00000099_00001.json").write_bytes(files[7].read_bytes())
    rng = np.random.default_rng(0)
    (raw / "pcd/0000").mkdir(parents=True)
    (raw / "img/0000").mkdir(parents=True)
    np.savez(raw / f"pcd/0000/{files[8].stem}.npz", points=rng.normal(size=(600, 3)))
    (raw / f"pcd/0000/{files[9].stem}.npy").write_bytes(b"junk")
    (raw / f"img/0000/{files[10].stem}_000.png").write_bytes(b"junk")
    (raw / f"img/0000/{files[10].stem}_001.png").write_bytes(b"junk")
    for view in range(2):
        Image.new("RGB", (100, 80), "red").save(raw / f"img/0000/{files[11].stem}_{view:03d}.png")
    Image.new("RGB", (100, 80), "red").save(raw / f"img/0000/{files[12].stem}_000.png")

    output = project.call("corpus")
    assert "31 entries: 26 accepted" in output
    reasons = {reject.reason for reject in read_rejects(project.folder / "data/corpus")}
    assert reasons == {"empty_file", "malformed_json", "no_geometry", "model_missing", "caption_missing"}
    counts = Manifest.read(project.folder / "data/corpus").details["counts"]
    assert sum(counts["reasons"].values()) == counts["rejected"] == 5

    assert "23 models drawn, 3 rejected" in project.call("geometry")
    rejects = {reject.id: reject.reason for reject in read_rejects(project.folder / "data/geometry")}
    assert rejects == {
        f"0000/{files[9].stem}": "bad_points",
        f"0000/{files[10].stem}": "bad_image",
        f"0000/{files[12].stem}": "bad_image",
    }
    for modality in ("image", "point_cloud"):
        project.call("features", "--modality", modality)
    # Text-only training uses what geometry could not; the later stages leave those out.
    assert "models to train on" in project.call("train", "stage1_text")
    project.call("train", "stage2_text_pc")


def test_missing_and_damaged_shards_and_checkpoints_are_told(copy):
    shard = copy.folder / "data/features/point_cloud/train-000000.tar"
    data = shard.read_bytes()
    os.truncate(shard, 1000)
    assert "run its pipeline stage again" in refused(copy, "train", "stage2_text_pc")
    assert "train-000000.tar: has changed" in copy.call("verify", code=1)
    shard.unlink()
    assert "is missing" in refused(copy, "train", "stage2_text_pc")
    shard.write_bytes(data)
    adapter = copy.folder / "checkpoints/stage1_text/adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:100])
    assert "adapter_model.safetensors is damaged" in refused(copy, "train", "stage2_text_pc")
