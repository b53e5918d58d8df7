"""``cadmllm cad`` in an empty folder: nothing of the pipeline is set up."""

import json
import shutil

import pytest

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from tests.conftest import shared
from tests.func.conftest import BIN, Project


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "part.json").write_text(documents.dumps(synthesis.make_part(0, 3, ("flange",)).program))
    project = Project(tmp_path)
    del project.env["PYTHONPATH"]  # the installed package
    return project


def test_a_model_goes_through_every_format(empty):
    assert "new body: " in empty.run(str(BIN / "cadmllm"), "cad", "show", "part.json")
    for target in ("part.tokens", "part.step", "part.stl", "part.glb", "part.ply", "part.png"):
        assert "mm³" in empty.call("cad", "convert", "part.json", target)
    assert "mm³" in empty.run(str(BIN / "cadmllm"), "cad", "convert", "part.step", "again.glb")
    assert "extrusion" in empty.call("cad", "convert", "part.tokens", "again.json")
    assert "8 of 8 files are fine" in empty.call("cad", "check", ".")


def test_check_lists_what_is_wrong_and_goes_on(empty):
    bad = empty.folder / "bad"
    bad.mkdir()
    (bad / "empty.json").write_text("")
    (bad / "cut.json").write_bytes((empty.folder / "part.json").read_bytes()[:500])
    (bad / "open.tokens").write_text('{"bits": 8, "centre": [0, 0, 0], "scale": 1}\nNEW XY 100 110\n')
    output = empty.call("cad", "check", "part.json", "bad", code=1)
    assert "1 of 4 files are fine" in output
    for name, reason in (("empty.json", "empty_file"), ("cut.json", "malformed_json"), ("open.tokens", "incomplete")):
        assert any(name in line and reason in line for line in output.splitlines())
    lines = empty.call("cad", "check", "--json", "part.json", "bad", code=1).splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    assert [answer["ok"] for answer in answers] == [True, False, False, False]


def test_mistakes_are_told_in_one_line(empty):
    for args, message in (
        (("convert", "part.json", "x.dwg"), "is needed"),
        (("convert", "none.json", "x.stl"), "does not exist"),
        (("show", "part.step"), "does not exist"),
        (("check", "nowhere"), "is needed"),
    ):
        output = empty.call("cad", *args, code=1)
        assert output.startswith("error: ")
        assert message in output
        assert "Traceback" not in output


def test_real_models_are_fine(empty):
    shutil.copytree(shared("omnicad/json/0000"), empty.folder / "real")
    files = len(list((empty.folder / "real").glob("*.json")))
    assert f"{files} of {files} files are fine" in empty.call("cad", "check", "real")
