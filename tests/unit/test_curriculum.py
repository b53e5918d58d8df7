"""What is shown when, how fast parts learn, when a stage ends: pure functions of seed and position."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.curriculum.plan import StagePlan, share_out
from pipeline.curriculum.schedule import (
    Course,
    course,
    draw_combinations,
    draw_views,
    expected_shares,
    has_stopped_improving,
    learning_rate_factor,
    objective,
    probabilities,
    without,
)
from pipeline.curriculum.settings import CurriculumStage, EarlyStopping
from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.runtime.seeds import digest, shuffled
from pipeline.settings.yaml_files import plain
from pipeline.training.meters import Tally

PARAMS = Params.load(Path(__file__).resolve().parents[2] / "presets" / "quickstart.yaml")
SHARES = {"text": 0.2, "text+point_cloud": 0.3, "text+image": 0.2, "text+point_cloud+image": 0.3}
STAGE = PARAMS.curriculum["stage3_all"].model_copy(update={"epochs": 1, "modality_sample_probs": SHARES})
NAMES = np.array([digest(f"0000{i:08d}_00001") for i in range(3000)], np.uint64)
PROGRAMS = 20 + np.arange(3000) % 60


def stage(**changes) -> CurriculumStage:
    return CurriculumStage.model_validate({**STAGE.model_dump(), **changes})


def planned(chosen=STAGE, names=NAMES, **training):
    return StagePlan(names, PROGRAMS.take, chosen, PARAMS.training.model_copy(update=training), (8, 2), 0)


def tallied(steps):
    tally = Tally()
    for step in steps:
        tally.add(step, {})
    return tally.shares()


def test_realised_frequencies_are_the_intended_ones():
    shown = Counter(combination for epoch in range(3) for combination in draw_combinations(STAGE, 0, epoch, NAMES))
    for combination, probability in STAGE.modality_sample_probs.items():
        assert shown[combination] / 9000 == pytest.approx(probability, abs=0.02)


def test_a_sample_shows_other_things_in_other_epochs_and_seeds():
    first = draw_combinations(STAGE, 0, 0, NAMES)
    assert first == draw_combinations(STAGE, 0, 0, NAMES)
    assert first != draw_combinations(STAGE, 0, 1, NAMES)
    assert first != draw_combinations(STAGE, 1, 0, NAMES)


def test_views_are_drawn_without_repetition_and_evenly():
    drawn = draw_views(8, 2, 0, 0, NAMES)
    assert all(len(set(views)) == 2 and views == tuple(sorted(views)) for views in drawn)
    counts = Counter(view for views in drawn for view in views)
    assert min(counts.values()) > 0.8 * 3000 * 2 / 8


def test_modality_dropout_drops_so_often_and_never_everything():
    dropping = stage(modality_dropout={"text": 0.5, "image": 0.25, "point_cloud": 1.0})
    shown = Counter(draw_combinations(dropping, 0, 0, NAMES))
    expected = expected_shares(dropping, 0.0)
    assert sum(expected.values()) == pytest.approx(1)
    assert not any("point_cloud" in combination for combination in shown)
    assert set(shown) == set(expected) == {"text", "text+image", "image"}
    for combination, probability in expected.items():
        assert shown[combination] / 3000 == pytest.approx(probability, abs=0.03)
    assert without("text", {"text"}) == "text"
    assert without("text+image", {"text", "image"}) == "text"


def test_scheduled_probabilities_shift_within_the_stage_also_within_one_epoch():
    shifting = stage(modality_sample_probs={"text": 1.0}, final_modality_sample_probs={"text+image": 1.0}, epochs=1,
                     point_cloud="data/corpus", train_projectors=("image",))  # fmt: skip
    assert probabilities(shifting, 0.25) == {"text": 0.75, "text+image": 0.25}
    steps = list(planned(shifting).steps())
    quarters = [steps[i * len(steps) // 4 : (i + 1) * len(steps) // 4] for i in range(4)]
    shares = [tallied(quarter)["combinations"].get("text+image", 0) for quarter in quarters]
    assert all(a < b for a, b in itertools.pairwise(shares))
    assert shares[0] < 0.25
    assert shares[3] > 0.7
    assert [step.progress for step in steps] == sorted(step.progress for step in steps)


def test_an_epoch_shows_every_sample_once_in_steps_of_one_size():
    steps = list(planned().steps())
    assert sorted(example.row for step in steps for example in step.examples) == list(range(3000))
    sizes = Counter(len(step.examples) for step in steps)
    assert max(sizes) == PARAMS.training.batch_size
    assert min(sizes) >= max(sizes) - 1
    assert all(len(e.views) == (2 if "image" in e.combination else 0) for step in steps for e in step.examples)


@pytest.mark.parametrize("preset", [path.stem for path in sorted(presets.FOLDER.glob("*.yaml"))])
@pytest.mark.slow
def test_steps_mix_combinations_whose_shares_of_the_gradient_are_their_probabilities(preset):
    """A step's gradient is the mean over its target tokens, so that a combination's share of it is its share of those.

    The programs' lengths spread as those of real models do, which a step in order of length would not survive.
    """
    p = Params.parse(plain(presets.compose(preset)), preset)
    draw = np.random.default_rng(0)
    names = np.array([digest(f"{number:08}") for number in range(6000)], np.uint64)
    programs = draw.lognormal(4.2, 0.8, len(names)).astype(int).clip(20, p.data.max_program_tokens)
    for chosen in p.curriculum.values():
        if len(chosen.modality_sample_probs) == 1:
            continue
        steps = list(StagePlan(names, programs.take, chosen, p.training, (8, 2), 0).steps())
        mixed = [len({e.combination for e in step.examples}) > 1 for step in steps]
        assert np.mean(mixed) > 0.9
        for combination, probability in chosen.modality_sample_probs.items():
            shares = [
                sum(e.num_targets for e in step.examples if e.combination == combination) / step.num_targets
                for step in steps
            ]
            assert np.mean(shares) == pytest.approx(probability, abs=0.02)


def test_a_plan_repeats_exactly_and_steps_stay_within_epochs():
    plan = planned(stage(epochs=2), batch_size=48)
    steps = list(plan.steps())
    assert steps == list(planned(stage(epochs=2), batch_size=48).steps())
    assert len(steps) == plan.num_steps == 2 * plan.steps_per_epoch
    for epoch in range(2):
        assert sorted(e.row for s in steps if s.epoch == epoch for e in s.examples) == list(range(3000))
    assert [s.ends_epoch for s in steps].count(True) == 2
    for first in (1, plan.steps_per_epoch - 1, plan.steps_per_epoch, plan.num_steps - 1):
        assert list(plan.steps(first)) == steps[first:]


def test_a_stage_can_be_so_many_steps_long():
    in_epoch = planned().num_steps
    plan = planned(stage(epochs=None, steps=in_epoch + 5))
    assert plan.num_steps == in_epoch + 5
    assert [s.epoch for s in plan.steps()][-5:] == [1] * 5
    assert [s.examples for s in plan.steps()][:in_epoch] == [s.examples for s in planned().steps()]


def test_validation_is_due_before_at_the_end_and_every_so_many_epochs():
    for every in (1, 0.5, 0.25, 1 / 3):
        plan = planned(stage(epochs=2), validate_every_epochs=every)
        due = [step for step in range(plan.num_steps + 1) if plan.validates_after(step)]
        assert due[0] == 0
        assert due[-1] == plan.num_steps
        assert len(due) == 1 + round(2 / every)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("budget", [400, 1200, 100_000])
def test_processes_share_a_step_without_loss_within_the_budget(num_ranks, budget):
    for step in itertools.islice(planned().steps(), 20):
        lengths = [20 + e.row % 7 + e.num_targets + 16 * e.shows("point_cloud") for e in step.examples]
        batches = share_out(lengths, budget, num_ranks)
        assert len(batches) % num_ranks == 0
        assert sorted(number for micro in batches for number in micro) == list(range(len(lengths)))
        filled = [sum(lengths[number] for number in micro) for micro in batches]
        assert max(filled) <= budget
        assert max(filled) - min(filled) <= max(lengths)


def test_a_process_with_nothing_to_do_keeps_the_others_company():
    assert share_out([30], 1000, 2) == [[0], []]


def test_a_sample_longer_than_the_budget_makes_a_batch_of_its_own():
    assert share_out([30, 5010, 30], 1000) == [[1], [0, 2]]


def test_what_is_drawn_for_a_sample_hangs_on_no_other():
    chosen = np.array([7, 2000, 3, 2999])
    dropping = stage(modality_dropout={"image": 0.5})
    combinations, views = draw_combinations(dropping, 0, 3, NAMES), draw_views(8, 2, 0, 3, NAMES)
    assert draw_combinations(dropping, 0, 3, NAMES[chosen]) == [combinations[row] for row in chosen]
    assert draw_views(8, 2, 0, 3, NAMES[chosen]) == [views[row] for row in chosen]
    order = shuffled(NAMES, 0, "order", 3)
    some = np.sort(chosen)
    assert some[shuffled(NAMES[some], 0, "order", 3)].tolist() == [row for row in order if row in some]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_warms_up_and_decays(schedule):
    factors = [learning_rate_factor(step, 100, schedule, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[-1] == (1 if schedule == "constant" else pytest.approx(0, abs=0.02))
    held = [learning_rate_factor(step, 100, schedule, 10, decays_from=80) for step in range(100)]
    assert held[:81] == factors[:10] + [1.0] * 71
    again = [learning_rate_factor(step, 20, schedule, 0) for step in range(20)]
    assert held[80:] == pytest.approx(again)  # from there on it is the same shape down to 0


def test_a_stage_ends_when_validation_stops_improving_within_its_bounds():
    rule = EarlyStopping(patience=2, min_delta=0.01, min_epochs=1)
    improving = [(0, 5.0), (0.5, 4.0), (1.0, 3.0), (1.5, 2.9)]
    assert not has_stopped_improving(rule, improving)
    assert not has_stopped_improving(rule, [*improving, (2.0, 2.89)])  # too little, once
    assert has_stopped_improving(rule, [*improving, (2.0, 2.89), (2.5, 2.88)])
    assert not has_stopped_improving(rule, [*improving, (2.0, 2.89), (2.5, 2.7)])
    assert not has_stopped_improving(rule, [(0, 1.0), (0.3, 2.0), (0.6, 2.0)])  # before min_epochs
    assert not has_stopped_improving(rule, [*improving, (2.0, 2.89)], epochs=2.5)
    assert has_stopped_improving(rule, [*improving, (2.0, 2.89)], epochs=2)  # once is enough when they are over


BRIEF = {"patience": 1, "min_epochs": 1, "decay_fraction": 0.25}
IMPROVING = [(0, 0.0, 5.0), (40, 1.0, 4.0), (80, 2.0, 3.0)]
WORSE = (120, 3.0, 3.1)


def test_a_stage_that_stops_improving_decays_its_rate_and_ends():
    dynamic = stage(epochs=5, early_stopping=BRIEF)
    assert course(dynamic, "cosine", 200, IMPROVING) == Course(160, 200)  # as long as `epochs`, if nothing is said
    decided = course(dynamic, "cosine", 200, [*IMPROVING, WORSE])
    assert decided == Course(120, 150)
    later = [*IMPROVING, WORSE, (150, 3.75, 1.0)]  # which is what a decay does to the loss
    assert course(dynamic, "cosine", 200, later) == decided
    assert course(dynamic, "cosine", 130, [*IMPROVING, WORSE]) == Course(104, 130)  # the decay had begun by then
    assert course(dynamic, "constant", 200, [*IMPROVING, WORSE]) == Course(120, 120)
    assert course(stage(epochs=5), "cosine", 200, [*IMPROVING, WORSE]) == Course(0, 200)


def test_a_stage_that_still_improves_goes_on_within_bounds():
    extended = stage(epochs=3, early_stopping={**BRIEF, "patience": 2, "max_epochs": 6})
    better, worse = (120, 3.0, 2.0), (160, 4.0, 2.1)
    assert planned(extended).num_steps == pytest.approx(2 * planned(stage(epochs=3)).num_steps, rel=0.02)
    assert course(extended, "cosine", 240, [*IMPROVING, better]) == Course(192, 240)
    # Its `epochs` are over: one validation without improvement is enough.
    assert course(extended, "cosine", 240, [*IMPROVING, WORSE]) == Course(120, 150)
    assert course(extended, "cosine", 240, [*IMPROVING, better, worse]) == Course(160, 200)


def test_probabilities_have_shifted_when_the_epochs_are_over():
    shifting = {"final_modality_sample_probs": {"text": 1.0}, "epochs": 1}
    steps = list(planned(stage(**shifting, early_stopping={**BRIEF, "max_epochs": 2})).steps())
    assert [s for s in steps if s.epoch == 0] == list(planned(stage(**shifting)).steps())
    assert {(s.progress, *{e.combination for e in s.examples}) for s in steps if s.epoch == 1} == {(1.0, "text")}


def test_the_objective_weighs_losses_as_the_stage_shows_them():
    losses = {"text": 1.0, "text+point_cloud": 2.0, "text+image": 3.0, "text+point_cloud+image": 4.0}
    assert objective(STAGE, losses) == pytest.approx(0.2 * 1 + 0.3 * 2 + 0.2 * 3 + 0.3 * 4)
    assert objective(stage(final_modality_sample_probs={"text": 1.0}), losses) == pytest.approx(1.0)
