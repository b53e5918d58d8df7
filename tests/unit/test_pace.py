"""How the loss of a stage went: spikes, slopes, and a loss that does not fall."""

from pathlib import Path

import pytest

from pipeline.curriculum.advice import flat_loss_advice, new_modalities
from pipeline.curriculum.settings import EarlyStopping
from pipeline.planning.params import Params
from pipeline.report.behaviour import behaviour, in_words
from pipeline.report.pace import Pace, paces

PARAMS = Params.load(Path(__file__).resolve().parents[2] / "presets" / "quickstart.yaml")
STAGES = tuple(PARAMS.curriculum)


def log(losses, epochs=2.0, first=None, last=None):
    """A log of a step a line, with validation before and after."""
    lines = [{"event": "train", "step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]
    ends = [{"event": "validation", "step": 0, "epochs": 0.0, "loss": first or {}}]
    return [*ends, *lines, {"event": "validation", "step": len(losses), "epochs": epochs, "loss": last or {}}]


def in_order(*logs):
    """The paces of stages that each go on from the one before."""
    return list(paces(PARAMS.curriculum, dict(zip(STAGES, logs, strict=False))).values())


def test_a_spike_is_what_a_stage_begins_with_over_the_end_before():
    falling = [3.0 - 0.1 * step for step in range(20)]
    spiking = [2.2, 2.2, *[2.0 - 0.1 * step for step in range(18)]]
    first, second, third = in_order(log(falling), log(spiking), log([0.2] * 20))
    assert (first.before, first.spike, first.recovered) == (None, None, 0)
    assert (first.start, first.end) == (pytest.approx(2.95), pytest.approx(1.15))
    assert second.spike == pytest.approx(2.2 / 1.15)
    assert second.recovered == 12  # where the mean of two steps is 1.15 or less
    assert third.recovered == 0
    assert in_order(log(falling), log([9.0] * 20))[1].recovered is None


def test_what_starts_from_the_language_model_has_no_stage_before():
    first, second, third = STAGES
    alone = PARAMS.curriculum[second].model_copy(update={"init_from": "models/llm"})
    last = PARAMS.curriculum[third].model_copy(update={"init_from": f"checkpoints/{first}/best"})
    curriculum = {**PARAMS.curriculum, second: alone, third: last}
    found = paces(curriculum, {first: log([1.0] * 9), second: log([4.0] * 9), third: log([2.0] * 9)})
    assert [pace.spike for pace in found.values()] == [None, None, 2.0]


def test_slope_and_variance_are_of_the_second_half_per_epoch():
    noise = [0.01, -0.01] * 20
    losses = [9.0] * 40 + [2.0 - 0.02 * step + noise[step] for step in range(40)]
    (pace,) = in_order(log(losses, epochs=4.0))  # 20 steps an epoch
    assert pace.slope == pytest.approx(-0.4, abs=0.01)
    assert pace.variance == pytest.approx(1e-4, rel=0.02)
    (short,) = in_order(log([2.0, 1.0, 1.0]))
    assert (short.slope, short.variance) == (None, None)
    empty, after = in_order(log([]), log([1.0] * 9))
    assert (empty.start, empty.spike, after.spike) == (None, None, None)
    assert in_words(empty, None) == "too few steps to say"


def test_what_became_of_the_loss_is_said_beside_what_is_expected():
    fast, slow = Pace(None, 3, 1, 0, -0.5, 0.01), Pace(1, 1.5, 0.9, 7, -0.1, 0.001)
    assert in_words(fast, None) == "falls"
    assert in_words(slow, fast) == "spikes, falls slower, more stable"
    assert in_words(Pace(1, 0.9, 0.9, 0, 0.1, 0.1), slow) == "does not spike, does not fall, less stable"
    models = {name: {"parameters": 1 << 20} for name in ("llm", "point_cloud_encoder", "image_encoder")}
    rows = behaviour(PARAMS, dict.fromkeys(STAGES, log([1.0] * 9)), dict(zip(STAGES, (1, 2, 3), strict=True)), models)
    assert [row["encoders_mib"] for row in rows] == [0, 4, 8]  # float32
    assert [row["trained_mib"] for row in rows] == [16 * n / (1 << 20) for n in (1, 2, 3)]
    assert len({row["expected"] for row in rows}) == 3


def test_only_what_a_stage_adds_is_new():
    assert [new_modalities(PARAMS.curriculum, name) for name in STAGES] == [[], ["point_cloud"], ["image"]]


def advice(name, first, last, changed=None, before=PARAMS):
    stage = before.curriculum[name].model_copy(update=changed or {})
    p = before.model_copy(update={"curriculum": {**before.curriculum, name: stage}})
    return flat_loss_advice(log([1.0] * 4, first=first, last=last), p, name)


def test_a_flat_loss_is_noticed_where_it_shows_what_is_new():
    known = {"text": 1.0, "text+point_cloud": 0.8}
    flat = advice("stage3_all", {**known, "text+image": 1.00}, {**known, "text+image": 0.995})
    assert "image went from 1.000 to 0.995 in stage3_all" in flat
    for remedy in (
        "training.projector_lr_multiplier (now 5)",
        "curriculum.stage3_all.lr (now 0.0001)",
        "curriculum.stage3_all more epochs (now 3)",
    ):
        assert remedy in flat
    assert advice("stage3_all", {**known, "text+image": 1.0}, {**known, "text+image": 1.5}) is not None
    assert advice("stage3_all", {**known, "text+image": 1.0}, {"text": 2.0, "text+image": 0.98}) is None
    assert advice("stage1_text", {"text": 1.0}, {"text": 1.0}) is None  # it adds nothing
    steps = advice("stage2_text_pc", known, known, {"train_projectors": False, "epochs": None, "steps": 70})
    assert "Train the projector of point_cloud (curriculum.stage2_text_pc.train_projectors)" in steps
    assert "more steps (now 70)" in steps


def test_what_is_only_looked_away_from_is_noticed_by_what_it_does_not_gain():
    """The loss falls all the same, from where random projectors had taken it."""
    first = {"text": 0.84, "text+point_cloud": 0.72, "text+image": 2.0, "text+point_cloud+image": 2.0}
    ignored = {"text": 0.84, "text+point_cloud": 0.72, "text+image": 0.838, "text+point_cloud+image": 0.722}
    flat = advice("stage3_all", first, ignored)
    assert "validation loss is 0.838 with text+image and 0.840 with text at the end of stage3_all" in flat
    assert "curriculum.stage3_all more epochs (now 3)" in flat
    # As the default preset learns: beside a cloud, an image has nothing to add.
    learnt = {"text": 0.839, "text+point_cloud": 0.722, "text+image": 0.773, "text+point_cloud+image": 0.723}
    assert advice("stage3_all", first, learnt) is None
    assert (
        advice("stage2_text_pc", {"text": 0.84, "text+point_cloud": 2.0}, {"text": 0.831, "text+point_cloud": 0.719})
        is None
    )
    # Each of two new modalities is judged by itself.
    both = advice("stage3_all", first, ignored, {"init_from": "checkpoints/stage1_text"})
    assert both == flat
    # Nothing shows what an image alone adds.
    assert advice("stage3_all", {"image": 2.0}, {"image": 1.0}) is None


def test_no_more_epochs_are_advised_to_a_stage_that_did_not_use_all_it_had():
    dynamic = {"early_stopping": EarlyStopping(patience=1, max_epochs=4)}
    known = {"text": 1.0, "text+image": 1.0}
    flat = advice("stage3_all", known, known, dynamic)  # two epochs
    assert flat.endswith(
        "Raise training.projector_lr_multiplier (now 5), or lower curriculum.stage3_all.lr (now 0.0001)"
    )
    whole = {"early_stopping": EarlyStopping(patience=1, max_epochs=2), "epochs": 2}
    assert advice("stage3_all", known, known, whole).endswith("give curriculum.stage3_all more epochs (now 2)")
