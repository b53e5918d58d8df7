"""The networks that the package carries, in a folder where nothing is set up: from a scan to a program."""

import json
import re
import shutil

import pytest

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.generation.pretrained import CadMllm
from pipeline.model.checkpoint_folder import LINEAGE, check_checkpoint
from pipeline.planning.params import Params
from pipeline.settings.places import SHIPPED_PARAMS
from stages.tools.checkpoints import Beside
from tests.conftest import ROOT
from tests.func.conftest import Project

MAKING = "making a checkpoint of the package's networks"


@pytest.fixture
def empty(tmp_path):
    """A folder with a mesh of a part, in millimetres."""
    project = Project(tmp_path)
    (tmp_path / "part.json").write_text(documents.dumps(synthesis.make_part(0, 3, ("flange",)).program))
    project.call("cad", "convert", "part.json", "part.stl")
    return project


def test_a_scan_is_enough(empty):
    given = ("--checkpoint", "shipped", "--points", "part.stl", "--unit", "mm", "--json")
    said = empty.call("generate", *given, "--out", "first.step")
    assert MAKING in said
    found = json.loads(said[said.index("{") :])
    assert found["misfit"] < 0.05
    (made,) = empty.folder.glob("scratch/shipped/*/shipped")
    assert json.loads((made / LINEAGE).read_text())["stage"] == "none"
    again = empty.call("generate", *given, "--out", "again.step")
    assert MAKING not in again
    assert json.loads(again[again.index("{") :]) == found | {"file": "again.step"}

    # What a kill leaves before the last step, and what a disk damages, is made anew, to the same bytes.
    weights = (made / "projectors.safetensors").read_bytes()
    shutil.copytree(made, made.with_name("checkpoint"))
    (made / "projectors.safetensors").write_bytes(weights[:-1])
    assert MAKING in empty.call("export", "model", "mine", "--checkpoint", "shipped")
    assert (made / "projectors.safetensors").read_bytes() == weights
    own, cloud = empty.folder / "mine", empty.folder / "part.stl"
    assert check_checkpoint(own) == check_checkpoint(made)
    assert written(own, cloud) == written(made, cloud)


def written(folder, cloud):
    return [each.candidate.tokens for each in CadMllm.from_pretrained(folder).generate(points=cloud, max_new_tokens=64)]


def test_where_nothing_is_trained_they_are_named(empty):
    said = empty.call("generate", "A plate.", "--out", "a.step", code=1)
    assert "params.yaml is not here: name a --checkpoint (`shipped` needs no training)" in said
    shutil.copy(ROOT / "params.yaml", empty.folder)
    said = empty.call("serve", code=1)
    assert re.search(r"checkpoints/stage3_all is missing: .*`--checkpoint shipped`", said)


def test_a_folder_of_that_name_is_taken(empty):
    (empty.folder / "shipped").mkdir()
    assert "shipped/config.json is missing" in empty.call(
        "generate", "A plate.", "--checkpoint", "shipped", "--out", "a.step", code=1
    )


def test_the_default_preset_reads_shapes_as_they_do():
    """So its curriculum begins with what they have learnt; a checkpoint of either generates under the same limits."""
    default, theirs = Params.load(ROOT / "params.yaml").document, Beside.load(SHIPPED_PARAMS).document
    assert keep(default, theirs) == theirs


def keep(whole, part):
    """Of one document what another names."""
    return {key: keep(whole[key], value) for key, value in part.items()} if isinstance(part, dict) else whole
