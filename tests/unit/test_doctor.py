"""What a machine lacks is said with the command that brings it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.settings import yaml_files
from stages.cli import app
from stages.tools import doctor

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])


def test_missing_libraries_come_with_one_command(monkeypatch):
    monkeypatch.setattr(doctor, "SYSTEM_LIBRARIES", {"libNoSuch.so.1": "libnosuch1", "libc.so.6": "libc6"})
    result = CliRunner().invoke(app, ["doctor", "--no-preset"])
    assert result.exit_code == 1
    assert "apt-get install -y libnosuch1\n" in result.output


def faults(preset, memory=24, gpu=0):
    document = yaml_files.plain(presets.compose(preset))
    return doctor.fit(Params.parse(document, preset), memory * GIB, gpu * GIB)


@pytest.mark.slow
def test_a_preset_that_does_not_fit_is_told():
    assert faults("quickstart") == []
    assert any("2.0 GiB" in fault for fault in faults("quickstart", memory=2))
    assert any("without a GPU that takes days" in fault for fault in faults("single-gpu"))
    assert any("data.path" in fault for fault in faults("single-gpu", gpu=24))
    assert any("needs about" in fault for fault in faults("paper", gpu=8))


@pytest.mark.parametrize(
    ("section", "key", "value", "fault"),
    [
        ("transfer", "path", "data/rawx", "transfer.path: data/rawx does not exist"),
        ("data", "source", "omnicad", "data.path: data/raw/README.md is no dataset"),
        ("data", "synthetic", {"families": ["l_brakcet"]}, "data.synthetic.families: l_brakcet; there are plate"),
        ("models", "llm", {"source": "shipped:langauge_model"}, "models.llm: shipped:langauge_model: the pac"),
        ("models", "llm", {"source": "path:/nope/qwen"}, "models.llm: /nope/qwen does not exist"),
    ],
)  # fmt: skip
def test_what_is_named_and_not_there_is_told_before_anything_runs(section, key, value, fault):
    document = yaml_files.plain(presets.compose("quickstart"))
    document[section][key] = {**document[section][key], **value} if isinstance(value, dict) else value
    (found,) = doctor.missing_inputs(Params.parse(document, "x"))
    assert fault in found


@pytest.mark.parametrize("preset", presets.names())
def test_what_a_preset_takes_from_the_hub_stays_the_same_except_michelangelo(preset):
    found = doctor.unpinned(Params.parse(yaml_files.plain(presets.compose(preset)), preset))
    assert [note.partition(":")[0] for note in found] == (
        ["models.point_cloud_encoder"] if preset in ("single-gpu", "paper") else []
    )
    assert all("Maikou/Michelangelo" in note and "not pinned: its revision is the latest" in note for note in found)


def test_what_is_not_pinned_is_noted_and_no_problem(monkeypatch):
    monkeypatch.setattr(doctor, "missing_libraries", list)
    paper = Params.parse(yaml_files.plain(presets.compose("paper")), "paper")
    monkeypatch.setattr(Params, "load", lambda: paper)
    monkeypatch.setattr(doctor, "fit", lambda *_: [])
    result = CliRunner().invoke(app, ["doctor"])
    assert "note: models.point_cloud_encoder: hub:Maikou/Michelangelo/" in result.output
    assert result.exit_code == 0
