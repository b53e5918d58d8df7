"""Weights & Biases: which group a run is in, what an online run is sent, and what happens where W&B fails."""

from types import SimpleNamespace

import pytest
import wandb

from pipeline.curriculum.log import StageLog
from pipeline.evaluation.setup import EvaluateSections
from pipeline.model.checkpoint_folder import LOG
from pipeline.runtime.errors import UserError
from pipeline.runtime.interrupt import Interrupted
from pipeline.training.mirror import Mirror, experiment, mirror_evaluation, steps_of
from pipeline.training.parallel import Parallel
from pipeline.training.settings import TrainSections

ANCESTORS = {
    "stage": "stage2_text_pc",
    "steps": 20,
    "validation": {"text": 3.0},
    "parent": {"stage": "stage1_text", "steps": 10, "validation": {"text": 2.0}, "parent": None},
}


class Service:
    """What stands for W&B: runs by id, with all that they were sent."""

    def __init__(self, monkeypatch):
        self.runs, self.opened, self.fails = {}, [], None
        monkeypatch.setattr(wandb, "setup", lambda: None)
        monkeypatch.setattr(wandb, "init", self.init)

    def init(self, **settings):
        if self.fails:
            raise self.fails
        self.opened.append(settings)
        run = self.runs.setdefault(
            settings.get("id", len(self.runs)), SimpleNamespace(rows=[], summary={}, exit_codes=[])
        )

        def log(row):
            run.rows.append(row)
            run.summary.update(row)

        return SimpleNamespace(
            summary=run.summary, define_metric=lambda *_, **__: None, log=log,
            finish=lambda exit_code=0: run.exit_codes.append(exit_code),
        )  # fmt: skip


@pytest.fixture
def service(monkeypatch):
    return Service(monkeypatch)


UNTRAINED = (("evaluation", "num_test_models", 1), ("tracking", "wandb_mode", "online"))


def with_mode(p, mode):
    return p.model_copy(update={"tracking": p.tracking.model_copy(update={"wandb_mode": mode})})


def attempt(p, folder, length, steps, said, error=None):
    """One attempt at the third stage, which resumes a log of so many bytes; the log's length then."""
    with Mirror(p, "stage3_all", folder, ANCESTORS, said.append, Parallel(p.training)) as mirror:
        log = StageLog(folder / LOG, length, folder / "speed.jsonl", True, mirror)
        for step in steps:
            log.write("epoch", step, loss=float(step), epoch=0)
            mirror.step = step
        if error is not None:
            raise error
        mirror.finish({"steps": mirror.step})
    return log.sync()


def test_the_group_follows_from_what_training_depends_on(smoke, monkeypatch):
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    group = experiment(smoke)
    assert group.startswith("smoke-")
    document = smoke.document
    for kind in (TrainSections, EvaluateSections):  # of the commands that write runs, whatever else they read
        assert experiment(kind.parse(document, "x")) == group
    fewer, online = ({**document[key], name: value} for key, name, value in UNTRAINED)
    assert experiment(TrainSections.parse({**document, "evaluation": fewer, "tracking": online}, "x")) == group
    stage = {**document["curriculum"]["stage3_all"], "lr": 1.0}
    faster = {**document, "curriculum": {**document["curriculum"], "stage3_all": stage}}
    larger = {**document, "geometry": {**document["geometry"], "num_points": 99}}  # of a section that it does not read
    assert len({group, *(experiment(TrainSections.parse(each, "x")) for each in (faster, larger))}) == 3
    assert experiment(TrainSections.parse({**document, "seed": 1}, "x")) != group
    monkeypatch.setenv("DVC_EXP_NAME", "muddy-cats")
    assert experiment(smoke) == "muddy-cats"


def test_the_steps_of_all_ancestors_come_before():
    assert steps_of(None) == 0
    assert steps_of(ANCESTORS) == 30


def test_an_online_run_follows_the_log_and_goes_on_without_repeating(smoke, service, tmp_path):
    p, said = with_mode(smoke, "online"), []
    folder = tmp_path / "id"
    folder.mkdir()
    with pytest.raises(Interrupted):
        attempt(p, folder, 0, [1, 2, 3], said, Interrupted("SIGTERM"))
    run = service.runs["id"]
    assert (run.summary["end/state"], run.summary["end/reason"], run.summary["end/step"]) == ("stopped", "SIGTERM", 3)
    kept = len("\n".join((folder / LOG).read_text().splitlines()[:1])) + 1
    attempt(p, folder, kept, [2, 3, 4], said)
    assert list(service.runs) == ["id"]
    assert [row["train/step"] for row in run.rows] == [1, 2, 3, 3, 4]
    assert [row["train/global_step"] for row in run.rows] == [31, 32, 33, 33, 34]
    assert [row["epoch/stage3_all_loss"] for row in run.rows] == [1, 2, 3, 3, 4]
    assert run.exit_codes == [130, 0]
    assert (run.summary["end/state"], run.summary["end/reason"], run.summary["steps"]) == ("finished", "", 4)
    assert {settings["resume"] for settings in service.opened} == {"allow"}
    assert said == []


def test_an_end_that_w_and_b_could_not_be_told_is_told_at_the_next_start(smoke, service, tmp_path):
    """And it hides nothing: the stage's own error is the one that is raised."""
    p, said = with_mode(smoke, "offline"), []
    service.fails = wandb.Error("no space left")
    with pytest.raises(UserError, match="the loss is nan"):
        attempt(p, tmp_path, 0, [2], said, UserError("the loss is nan at step 2"))
    assert service.runs == {}
    assert "no space left" in said[0]
    assert "it is written when the stage is started again" in said[0]
    service.fails = None
    attempt(p, tmp_path, 0, [1, 2, 3], said)
    died, finished = service.runs.values()
    assert died.summary["end/reason"] == "the loss is nan at step 2"
    assert ([row["train/step"] for row in died.rows], died.exit_codes) == ([2], [1])
    assert ([row["train/step"] for row in finished.rows], finished.exit_codes) == ([1, 2, 3], [0])
    attempt(p, tmp_path, 0, [1], said)
    assert len(service.runs) == 3  # what has been told is not told again


def test_a_process_that_only_helps_tells_nothing(smoke, service, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    helper = Parallel(smoke.training)
    with pytest.raises(UserError), Mirror(with_mode(smoke, "offline"), "stage3_all", tmp_path, None, print, helper):
        raise UserError("x")
    assert service.opened == []
    assert list(tmp_path.iterdir()) == []


def test_w_and_b_that_cannot_start_is_a_message(smoke, service, tmp_path):
    service.fails = wandb.Error("no space left")
    with pytest.raises(UserError, match=r"no space left\n.*tracking.wandb_mode"):
        attempt(with_mode(smoke, "online"), tmp_path, 0, [], [])


@pytest.mark.parametrize(
    "fault", [wandb.Error("no space left"), RuntimeError("no space left"), OSError("no space left")]
)
def test_a_finished_stage_and_its_evaluation_survive_w_and_b(smoke, service, tmp_path, fault):
    p, said = with_mode(smoke, "offline"), []
    service.fails = fault
    attempt(p, tmp_path, 0, [1, 2], said)
    figures = {"combinations": {}}
    mirror_evaluation(p, "stage3_all", ANCESTORS, figures, said.append)
    assert [("no space left" in line, "started again" in line) for line in said] == [(True, False)] * 2
