"""Studies: what each variant changes, and how runs become a table."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pipeline.planning import presets, study
from pipeline.planning.params import Params
from pipeline.planning.study import collect, markdown, trials, write_plot
from pipeline.runtime.errors import UserError
from pipeline.settings import yaml_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_variant_is_valid_and_shows_as_many_samples():
    found = trials("curriculum", 3, presets.compose("quickstart"))
    assert len({trial.name for trial in found}) == len(found) == 18
    assert {trial.params.training.seed for trial in found} == {None, 1, 2}  # none is the project's, which is 0
    assert {trial.params.seed for trial in found} == {0}
    assert {trial.params.evaluation.conditioning for trial in found} == {False}
    epochs = {trial.variant: sum(s.epochs or 0 for s in trial.params.curriculum.values()) for trial in found}
    dynamic = next(trial for trial in found if trial.variant == "dynamic_curriculum")
    assert all(dynamic.params.curriculum[name].early_stopping for name in ("stage2_text_pc", "stage3_all"))
    del epochs["dynamic_curriculum"]
    assert set(epochs.values()) == {7}
    direct = next(trial for trial in found if trial.variant == "direct")
    assert list(direct.params.curriculum) == ["direct"]


def test_each_departure_takes_back_what_it_is_named_after():
    chosen = {trial.variant: trial.params for trial in trials("departures", 1, presets.compose("quickstart"))}
    as_it_is = chosen["as_it_is"]

    def rates(name):
        return [stage.lr for stage in chosen[name].curriculum.values()]

    assert as_it_is.training.projector_lr_multiplier == 5
    assert len(set(rates("as_it_is"))) == 1
    first, second, third = rates("order_of_rates")
    assert first == second == 2 * third  # the document's order
    assert rates("rates") == [
        stage.lr for stage in Params.parse(yaml_files.plain(presets.compose("paper")), "paper").curriculum.values()
    ]
    assert chosen["batch_of_16"].training.batch_size == 16 == as_it_is.training.batch_size / 2
    embeddings = [stage.text_embeddings for stage in as_it_is.curriculum.values()]
    assert embeddings == ["all", "new", "new"]  # the document's too
    assert [stage.epochs for stage in chosen["epochs"].curriculum.values()] == [3, 3, 5]
    for section in ("seed", "models", "data", "geometry", "features"):
        assert all(getattr(p, section) == getattr(as_it_is, section) for p in chosen.values()), section


def test_the_order_is_measured_on_as_many_samples_and_as_fast_as_each_model_learns():
    chosen = {trial.variant: trial.params for trial in trials("order", 1, presets.compose("quickstart"))}
    for kind in ("text", "captions"):
        before, ordered, direct = (chosen[f"{kind}_{name}"] for name in ("before", "curriculum", "direct"))
        sources = {p.models.llm.source for p in (before, ordered, direct)}
        assert sources == {f"path:pretraining/pretrained/language_model_{kind}"}
        assert sum(stage.epochs for stage in ordered.curriculum.values()) == direct.curriculum["direct"].epochs
        assert max(stage.lr for stage in ordered.curriculum.values()) == direct.curriculum["direct"].lr
        assert ordered.training == direct.training
        assert before.curriculum["direct"].steps == 1


def test_an_unknown_study_is_named_with_those_there_are():
    with pytest.raises(UserError, match="no study 'nothing'; there are curriculum, departures, order"):
        trials("nothing", 1, presets.compose("quickstart"))


def test_a_file_of_something_else_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    for text in ("{}", "curriculum: {}", "[1]", "{variants: {a: {}}, also: {}}"):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(UserError, match="mine\\.yaml: a study holds"):
            trials("mine", 1, presets.compose("quickstart"))


@pytest.mark.slow
def test_figures_are_means_over_seeds_with_their_spread(tmp_path):
    chosen = [
        t for t in trials("curriculum", 2, presets.compose("quickstart")) if t.variant in ("curriculum", "direct")
    ]

    def read(name: str, path: str):
        seed = int(name[-1])
        if "train" in path:
            return {"target_tokens": 100, "retention_text": None if "direct" in name else 1.0 + seed}
        figures = {
            "num_models": 4,
            "valid_rate": 0.5,
            "validation_loss": 2.0 + seed,
            "metrics": {"chamfer_l1_mean": {"median": 0.1}},
        }
        return {"combinations": {"text": figures, "text+image": {**figures, "valid_rate": 1.0, "num_models": 12}}}

    found = collect(chosen, read)
    assert found["curriculum"]["validation_loss.text"] == {"mean": 2.5, "spread": 1.0}
    assert found["curriculum"]["target_tokens"]["mean"] == 300
    assert found["curriculum"]["validity"]["mean"] == pytest.approx(0.875)
    assert "retention_text" not in found["direct"]
    rows = markdown(found).splitlines()
    assert len(rows) == 4
    assert "2.500 ± 0.500" in rows[2]
    write_plot(found, tmp_path / "plot.svg")
    before = (tmp_path / "plot.svg").read_bytes()
    assert ET.fromstring(before).tag.endswith("svg")
    write_plot(found, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_bytes() == before
