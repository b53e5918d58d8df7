"""params.yaml and presets."""

import copy
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.curriculum.settings import COMBINATIONS
from pipeline.evaluation.setup import EvaluateSections
from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.runtime.errors import UserError
from pipeline.settings import yaml_files
from pipeline.training.settings import TrainSections
from stages.cli import app
from stages.geometry import GeometrySections

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def document():
    return yaml_files.read_yaml(ROOT / "presets" / "quickstart.yaml")


def test_the_committed_params_are_the_quickstart_preset():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "presets" / "quickstart.yaml").read_bytes()


def test_pretraining_runs_its_preset(tmp_path):
    presets.write(presets.compose("pretraining"), tmp_path / "params.yaml")
    assert (ROOT / "pretraining/params.yaml").read_bytes() == (tmp_path / "params.yaml").read_bytes()


@pytest.mark.parametrize("name", presets.names() if Path("presets").is_dir() else [])
def test_every_preset_is_valid_and_says_its_name(name):
    composed = yaml_files.plain(presets.compose(name))
    assert composed["preset"] == name
    assert Params.parse(composed, name).preset == name


def test_writing_the_default_changes_no_byte(tmp_path):
    presets.write(presets.compose(presets.BASE), tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_a_preset_keeps_the_comments_and_reads_back(tmp_path):
    presets.write(presets.compose("smoke"), tmp_path / "params.yaml")
    text = (tmp_path / "params.yaml").read_text()
    assert "# of a quantised value, 6 to 12" in text
    assert Params.load(tmp_path / "params.yaml").data.synthetic.num_models < 100


def test_all_faults_are_listed_at_once_with_their_keys():
    bad = document()
    bad["codec"]["bits"] = 3
    bad["trainning"] = 1
    bad["data"]["source"] = "abc"
    bad["model"]["lora"]["r"] = -1
    bad["models"]["llm"]["source"] = "nowhere"
    del bad["seed"]
    with pytest.raises(UserError) as caught:
        Params.parse(bad, "params.yaml")
    text = str(caught.value)
    for part in (
        "6 faults",
        "codec.bits",
        "trainning: unknown key",
        "data.source",
        "model.lora.r",
        "models.llm",
        "seed",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["curriculum"]["stage2_text_pc"]["modality_sample_probs"].update(text=0.4), "add up to 1.1"),
        (lambda d: d["curriculum"]["stage2_text_pc"].update(point_cloud="data/corpus"), "data/features/point_cloud"),
        (lambda d: d["curriculum"]["stage1_text"].update(image="data/features/image"), "image must be data/corpus"),
        (lambda d: d["curriculum"]["stage3_all"].update(init_from="checkpoints/other"), "is not one of"),
        (lambda d: d["curriculum"]["stage1_text"].update(modality_sample_probs={"smell": 1.0}), "one of text"),
        (lambda d: d["curriculum"]["stage1_text"].update(steps=10), "either epochs or steps"),
        (
            lambda d: d["curriculum"]["stage2_text_pc"].update(early_stopping={"patience": 1}),
            "stage3_all.init_from must be checkpoints/stage2_text_pc/best",
        ),
        (
            lambda d: d["curriculum"]["stage3_all"].update(early_stopping={"patience": 1, "max_epochs": 2}),
            "max_epochs extends epochs",
        ),
        (lambda d: d["curriculum"]["stage1_text"].update(modality_dropout={"image": 0.1}), "never shows it"),
        (lambda d: d["curriculum"]["stage1_text"].update(train_projectors=["image"]), "never shows it"),
        (lambda d: d["training"].update(distributed="fsdp2", dtype="float16"), "fsdp2 needs"),
        (lambda d: d["curriculum"]["stage3_all"].update(rollouts={"group_size": 4}), "rollouts are of objective geom"),
        (
            lambda d: (
                d["curriculum"]["stage3_all"].update(objective="geometry") or d["model"].update(vocabulary="text")
            ),
            "stage3_all.objective geometry needs model.vocabulary cad",
        ),
        (
            lambda d: d["curriculum"]["stage3_all"].update(objective="geometry", rollouts={"group_size": 1}),
            "group_size",
        ),
        (lambda d: d["model"].update(views_per_sample=8) or d["geometry"].update(num_views=2), "views_per_sample"),
        (lambda d: d["data"]["split"].update(test=0.95), "nothing to train on"),
        (lambda d: d.update(seed=2**63), r"seed: .*less than 9223372036854775808"),
        (lambda d: d["training"].update(seed=-1), r"training\.seed: .*greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_together_is_told(change, message):
    bad = copy.deepcopy(document())
    change(bad)
    with pytest.raises(UserError, match=message):
        Params.parse(bad, "params.yaml")


def test_a_stage_checks_the_sections_that_it_reads_and_passes_over_the_others():
    given = document()
    given["evaluation"]["nosuch"] = 1
    given["model"]["lora"]["r"] = -1
    assert GeometrySections.parse(given, "params.yaml").data.source == "synthetic"  # of this section, a part
    for sections, key in ((TrainSections, "model.lora.r: "), (EvaluateSections, "evaluation.nosuch: unknown key")):
        with pytest.raises(UserError, match=rf"^params.yaml has 1 fault:\n  {re.escape(key)}"):
            sections.parse(given, "params.yaml")


def test_all_parameters_are_shown_with_the_defaults_of_those_that_are_read():
    shown = TrainSections.parse(document(), "params.yaml").with_document()
    assert list(shown) == list(document())
    assert shown["curriculum"]["stage1_text"]["objective"] == "tokens"
    assert shown["transfer"] == document()["transfer"]


def test_damaged_and_missing_files_are_told(tmp_path):
    with pytest.raises(UserError, match="cadmllm preset use"):
        Params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1, 2")
    with pytest.raises(UserError, match="not valid YAML"):
        Params.load(tmp_path / "params.yaml")


def test_every_stage_knows_what_can_be_asked_of_it():
    curriculum = Params.parse(document(), "x").curriculum
    assert curriculum["stage1_text"].combinations == ("text",)
    assert curriculum["stage2_text_pc"].combinations == ("text", "text+point_cloud", "point_cloud")
    assert curriculum["stage3_all"].combinations == COMBINATIONS
    dropping = yaml_files.plain(presets.compose("paper"))  # its captions are always shown
    curriculum = Params.parse(dropping, "x").curriculum
    assert curriculum["stage2_text_pc"].combinations == ("text", "text+point_cloud")
    assert curriculum["stage3_all"].combinations == COMBINATIONS[:4]
    dropping["curriculum"]["stage3_all"]["modality_dropout"] = {"text": 0.1}
    assert Params.parse(dropping, "x").curriculum["stage3_all"].combinations == COMBINATIONS
    document_ = document()
    document_["curriculum"]["stage3_all"]["modality_sample_probs"] = {"point_cloud": 0.5, "image": 0.5}
    assert Params.parse(document_, "x").curriculum["stage3_all"].combinations == ("point_cloud", "image")


@pytest.mark.slow
def test_own_changes_are_not_overwritten_by_a_preset(tmp_path, monkeypatch):
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)

    def use(*args):
        return CliRunner().invoke(app, ["preset", "use", *args])

    assert use("quickstart").exit_code == 0
    assert use("smoke").exit_code == 0
    text = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("seed: 0", "seed: 7", 1))
    refused = use("quickstart")
    assert refused.exit_code == 1
    assert "(seed)" in refused.output
    assert use("quickstart", "--force").exit_code == 0
    assert "no preset 'huge'" in use("huge").output


def test_every_parameter_that_the_documentation_names_exists():
    sections = document()
    pages = "\n".join(page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    dotted = re.findall(r"`([a-z_]+\.[a-z0-9_.]+)`", pages)
    named = {name for name in dotted if name.partition(".")[0] in sections}
    assert len(named) > 10
    keys = presets.flatten(sections)
    assert [name for name in sorted(named) if not any(key == name or key.startswith(f"{name}.") for key in keys)] == []
