"""A mistake is told before anything is loaded that takes seconds."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.func.conftest import make_project

HEAVY = {"torch", "transformers", "peft", "OCP", "scipy", "trimesh", "webdataset", "wandb", "matplotlib", "dvc"}
TOLD = f"""
import json, sys
from typer.testing import CliRunner
from stages.cli import app
for args in json.loads(sys.argv[1]):
    result = CliRunner(env={{"COLUMNS": "160"}}).invoke(app, args)
    print(json.dumps([result.exit_code, result.output, sorted({HEAVY} & sys.modules.keys())]))
"""


def told(project, commands):
    """What each command says, which must be an error, and heavy modules that are loaded by then."""
    lines = project.run(sys.executable, "-c", TOLD, json.dumps(commands)).splitlines()
    for line, command in zip(lines, commands, strict=True):
        code, output, loaded = json.loads(line)
        assert code in (1, 2), (command, output)
        assert output.lower().count("error") == 1, (command, output)
        yield output, loaded


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("mistakes"))


def test_missing_inputs(project):
    expected = {
        ("train", "nosuch"): "there are stage1_text",
        ("evaluate", "nosuch"): "there are stage1_text",
        ("train", "stage1_text"): "run `cadmllm models` first",
        ("evaluate", "stage3_all"): "run `cadmllm train stage2_text_pc` first",
        ("robustness",): "run `cadmllm train stage2_text_pc` first",
        ("geometry",): "data/corpus",
        ("features", "--modality", "image"): "data/geometry",
        ("features", "verify"): "no features here yet",
        ("verify",): "no shards here yet",
        ("retrieval",): "run `cadmllm models`",
        ("checkpoint", "show", "checkpoints/x"): "is not a checkpoint",
        ("pretrain", "shape-encoder"): "no section `pretraining`",
        ("preset", "use", "nosuch"): "nosuch",
        ("metrics", "a.step", "b.step"): "a.step does not exist",
        ("metrics", "pipeline", "b.step"): "either two files or two folders",
        ("cad", "convert", "a.step", "b.stl"): "a.step does not exist",
        ("cad", "show", "a.json"): "a.json does not exist",
        ("cad", "check", "a.json"): "a.json does not exist",
        ("generate", "x", "--out", "x.step"): "checkpoints/stage3_all is missing: `dvc repro` trains it",
    }
    for (output, loaded), message in zip(told(project, list(expected)), expected.values(), strict=True):
        assert message in output
        assert loaded == [], output


def test_every_stage_tells_a_typo_in_what_it_does_not_read(tmp_path):
    """Else the stage that reads it would, hours later."""
    project = make_project(tmp_path)
    project.change("search_builds:", "search_build:")
    project.change("wandb_mode: disabled", "wandb_mode: no")
    stages = ("models", "corpus", "geometry", "robustness", "retrieval", "transfer", "report")
    commands = [(stage,) for stage in stages]
    commands += [("features", "--modality", "image"), ("train", "stage1_text"), ("evaluate", "stage1_text")]
    for output, loaded in told(project, commands):
        assert "evaluation.search_build: unknown key" in output
        assert "tracking.wandb_mode: " in output
        assert loaded == [], output
    assert "--modality" in project.call("features", "--help")


def test_what_generate_cannot_use(done, tmp_path):
    (tmp_path / "folder.step").mkdir()
    (tmp_path / "part.doc").write_text("x")
    (tmp_path / "junk.npy").write_text("junk")
    (tmp_path / "junk.png").write_text("junk")
    np.save(tmp_path / "flat.npy", np.zeros((100, 2)))
    Image.new("L", (8, 8)).save(tmp_path / "view.png")
    shutil.copytree(done.folder / "checkpoints/stage3_all", tmp_path / "part")
    (tmp_path / "part/projectors.safetensors").unlink()
    at, out = str(tmp_path), ("--out", str(tmp_path / "x.step"))
    views = [word for _ in range(3) for word in ("--image", f"{at}/view.png")]
    expected = {
        ("x", "--out", f"{at}/x.doc"): "one of .json",
        ("x", "--out", f"{at}/nowhere/x.step"): "is not a folder",
        ("x", "--out", f"{at}/folder.step"): "is a directory",
        (" ", *out): "what is to be built?",
        ("x", "--steps", "2", *out): "give --start too",
        ("x", "--start", f"{at}/no.json", *out): "does not exist",
        ("x", "--start", f"{at}/part.doc", *out): "is needed",
        ("x", "--points", f"{at}/no.npy", *out): "does not exist",
        ("x", "--points", f"{at}/part.doc", *out): "one of .npy",
        ("x", "--points", f"{at}/junk.npy", *out): "no .npy or .npz file",
        ("x", "--points", f"{at}/flat.npy", *out): "shape (100, 2)",
        ("x", "--image", f"{at}/no.png", *out): "does not exist",
        ("x", "--image", f"{at}/junk.png", *out): "bad_image",
        ("x", *views, *out): "3 images; the checkpoint knows 2 views",
        ("x", "--beams", "2", "--candidates", "3", *out): "as many beams",
        ("x", "--beams", "2", "--temperature", "1", *out): "either beams or a temperature",
        ("x", "--candidates", "8", "--temperature", "0", *out): "need a temperature above 0",
        ("x", "--checkpoint", at, *out): "is not a checkpoint",
        ("x", "--checkpoint", f"{at}/part", *out): "the checkpoint is not whole",
        ("x", *views[:2], "--checkpoint", "checkpoints/stage1_text", *out): "has not learnt image",
    }
    commands = [("generate", *arguments) for arguments in expected]
    for (output, loaded), message in zip(told(done, commands), expected.values(), strict=True):
        assert message in output
        assert loaded == [], output
