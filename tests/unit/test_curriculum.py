"""What is shown when: pure functions of the seed."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from pipeline import params
from pipeline.training.curriculum import (
    Lengths,
    combination_for,
    learning_rate_factor,
    padding_share,
    plan_epoch,
    plan_stage,
    views_for,
)

PARAMS = params.load(Path(__file__).resolve().parents[2] / "presets" / "quickstart.yaml")
STAGE = PARAMS.curriculum["stage3_all"]
KEYS = [f"0000{i:08d}_00001" for i in range(3000)]
LENGTHS = Lengths(
    [20 + i % 7 for i in range(3000)], [20 + i % 60 for i in range(3000)], {"point_cloud": 16, "image": 8}
)


def test_realised_frequencies_are_the_intended_ones():
    shown = Counter(combination_for(STAGE, 0, epoch, key) for epoch in range(3) for key in KEYS)
    for combination, probability in STAGE.modality_sample_probs.items():
        assert shown[combination] / 9000 == pytest.approx(probability, abs=0.02)


def test_a_sample_shows_other_things_in_other_epochs_and_seeds():
    first = [combination_for(STAGE, 0, 0, key) for key in KEYS]
    assert first == [combination_for(STAGE, 0, 0, key) for key in KEYS]
    assert first != [combination_for(STAGE, 0, 1, key) for key in KEYS]
    assert first != [combination_for(STAGE, 1, 0, key) for key in KEYS]


def test_views_are_drawn_without_repetition_and_evenly():
    drawn = [views_for(8, 2, 0, 0, key) for key in KEYS]
    assert all(len(set(views)) == 2 and views == tuple(sorted(views)) for views in drawn)
    counts = Counter(view for views in drawn for view in views)
    assert min(counts.values()) > 0.8 * 3000 * 2 / 8


def test_an_epoch_shows_every_sample_once_within_the_budget_with_little_padding():
    batches = plan_epoch(KEYS, LENGTHS, STAGE, PARAMS.training, (8, 2), 0, 0)
    assert sorted(example.row for batch in batches for example in batch) == list(range(3000))
    assert all(len(b) * max(e.length for e in b) <= PARAMS.training.tokens_per_batch for b in batches)
    assert all(len(e.views) == (2 if "image" in e.combination else 0) for b in batches for e in b)
    assert padding_share(batches) < 0.05


def test_a_plan_repeats_exactly_and_steps_stay_within_epochs():
    training = PARAMS.training.model_copy(update={"gradient_accumulation_steps": 3})
    stage = STAGE.model_copy(update={"epochs": 2})
    steps = plan_stage(KEYS, LENGTHS, stage, training, (8, 2), 0)
    assert steps == plan_stage(KEYS, LENGTHS, stage, training, (8, 2), 0)
    assert [epoch for epoch, _ in steps] == sorted(epoch for epoch, _ in steps)
    for epoch in range(2):
        rows = [e.row for at, micros in steps if at == epoch for micro in micros for e in micro]
        assert sorted(rows) == list(range(3000))


def test_a_sample_longer_than_the_budget_makes_a_batch_of_its_own():
    lengths = Lengths([10, 10, 10], [20, 5000, 20], {})
    batches = plan_epoch(KEYS[:3], lengths, PARAMS.curriculum["stage1_text"], PARAMS.training, (0, 2), 0, 0)
    assert sorted(len(batch) for batch in batches) == [1, 2]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_warms_up_and_decays(schedule):
    factors = [learning_rate_factor(step, 100, schedule, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[-1] == (1 if schedule == "constant" else pytest.approx(0, abs=0.02))
