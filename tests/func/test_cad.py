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


def test_every_kind_of_file_is_shown(empty):
    empty.call("cad", "convert", "part.json", "part.step")
    solid = empty.call("cad", "show", "part.step", "--picture", "solid.png").splitlines()
    assert solid[0].startswith("part.step: a solid of one body, ")
    size = solid[1].partition(", from ")[0]
    for suffix in ("stl", "ply", "obj", "glb"):
        empty.call("cad", "convert", "part.json", f"part.{suffix}")
        shown = empty.call("cad", "show", f"part.{suffix}", "--picture", f"{suffix}.png").splitlines()
        assert shown[0].startswith(f"part.{suffix}: a closed mesh, ")
        assert [round(float(word), 1) for word in shown[1].split(" mm")[0].split(" x ")] == [
            round(float(word), 1) for word in size.split(" mm")[0].split(" x ")
        ]
        assert "mm², volume " in shown[2]
        assert (empty.folder / f"{suffix}.png").read_bytes().startswith(b"\x89PNG")
    inches = empty.call("cad", "show", "part.stl", "--unit", "in").splitlines()[1]
    assert float(inches.split(" x ")[0]) == pytest.approx(25.4e-3 * float(size.split(" x ")[0]), rel=1e-3)
    assert "drawn: words.png" in empty.call("cad", "show", "part.json", "--picture", "words.png")


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
    (empty.folder / "cloud.xyz").write_text("0 0 0\n1 2 3\n")
    (empty.folder / "damaged.stl").write_text("solid nothing")
    for args, message in (
        (("convert", "part.json", "x.dwg"), "is needed"),
        (("convert", "none.json", "x.stl"), "does not exist"),
        (("show", "part.step"), "does not exist"),
        (("show", "part.dwg"), "is needed"),
        (("show", "part.json", "--unit", "mm"), "has a unit of its own"),
        (("show", "part.json", "--picture", "part.jpg"), "one of .png is needed"),
        (("show", "cloud.xyz", "--picture", "cloud.png"), "holds points"),
        (("show", "damaged.stl"), "malformed_mesh"),
        (("convert", "part.json", "part.stl", "--unit", "in"), "has a unit of its own"),
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
