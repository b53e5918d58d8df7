"""The simulated cluster of ``benchmarks/cluster_model.py``: what must hold whatever is simulated."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks._cluster import Cluster, simulate_pool, simulate_steps

FAILING = Cluster(4, 2, mtbf_s=40.0, start_s=0.5, restart_s=3.0)


def times(number, seed=0):
    return np.random.default_rng(seed).lognormal(0.0, 1.0, number).tolist()


@pytest.mark.parametrize(("units", "workers"), [(0, 3), (1, 3), (7, 3), (9, 3), (100, 8)])
def test_equal_units_take_as_many_rounds_as_there_must_be(units, workers):
    run = simulate_pool([2.0] * units, Cluster(1, workers))
    assert run.seconds == pytest.approx(2.0 * math.ceil(units / workers))
    assert (run.lost_s, run.failures) == (0.0, 0)


@given(st.lists(st.floats(0.01, 50.0), min_size=1, max_size=60), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_no_run_is_shorter_than_its_work_or_its_longest_unit(each, workers):
    run = simulate_pool(each, Cluster(1, workers))
    assert run.seconds >= max(max(each), sum(each) / workers) * (1 - 1e-9)
    assert run.seconds <= sum(each) / workers + max(each) + 1e-9, "Graham 1969: nobody waits while there is work"
    assert run.busy == pytest.approx(sum(each) / (run.seconds * workers))


def test_more_workers_are_no_slower_in_the_mean():
    means = [
        np.mean([simulate_pool(times(200, seed), Cluster(1, workers)).seconds for seed in range(20)])
        for workers in (1, 2, 4, 8, 16, 32)
    ]
    assert means == sorted(means, reverse=True)


def test_a_worker_alone_pays_for_each_failure_what_was_lost_and_the_wait():
    """Lost at 2.5 s, half a second into the second unit; and again while it is not there."""
    cluster = Cluster(1, 1, restart_s=3.0, start_s=0.5)
    whole = simulate_pool([1.5, 1.5, 1.5], cluster).seconds
    assert whole == 5.0
    run = simulate_pool([1.5, 1.5, 1.5], cluster, [(2.5, 0)])
    assert (run.seconds, run.lost_s, run.failures) == (whole + 0.5 + 3.5, 0.5, 1)
    again = simulate_pool([1.5, 1.5, 1.5], cluster, [(2.5, 0), (4.0, 0)])
    assert again.seconds == run.seconds + 1.5, "it comes 3.5 s after the later one"


@pytest.mark.parametrize("seed", range(5))
def test_failures_cost_at_least_the_work_that_they_lose(seed):
    each = times(300, seed)
    run = simulate_pool(each, FAILING, FAILING.failures(np.random.default_rng(seed)))
    assert run.failures > 0
    assert run.lost_s > 0
    assert run.seconds * FAILING.workers >= sum(each) + run.lost_s
    assert run.busy * run.seconds * FAILING.workers == pytest.approx(sum(each)), "each unit is made once"


def test_a_lost_unit_goes_to_a_worker_that_is_up():
    run = simulate_pool([4.0, 1.0], Cluster(2, 1, restart_s=100.0), [(2.0, 0)])
    assert run.seconds == 6.0


def test_a_slow_machine_is_given_less():
    even = simulate_pool([1.0] * 800, Cluster(4, 2)).seconds
    slow = simulate_pool([1.0] * 800, Cluster(4, 2, slow=0.25, slowdown=4.0)).seconds
    assert even == 100.0
    assert slow == pytest.approx(400 / 3.25, abs=4.0), "three at full pace, one at a quarter"
    assert simulate_pool([1.0] * 8, Cluster(1, 1, slow=0.9, slowdown=4.0)).seconds == 8.0, "it is slower than none"


def test_the_process_that_deals_is_a_bound_whatever_the_workers():
    run = simulate_pool([1.0] * 1000, Cluster(1, 1000), hand_s=0.01)
    assert run.seconds == pytest.approx(11.0)


def test_results_in_order_wait_for_a_slow_unit():
    each = [100.0] + [1.0] * 99
    assert simulate_pool(each, Cluster(1, 2)).seconds == 100.0
    assert simulate_pool(each, Cluster(1, 2), ahead=5).seconds == pytest.approx(100.0 + 45.0), (
        "nine others begin before it ends"
    )


def test_the_same_seed_gives_the_same_run():
    def both(seed):
        rng = np.random.default_rng(seed)
        pool = simulate_pool(times(200, seed), FAILING, FAILING.failures(rng))
        return pool, simulate_steps(500, 0.1, FAILING, rng, jitter=0.1, save_every=20)

    assert both(1) == both(1)
    assert both(1) != both(2)


def test_steps_wait_for_the_slowest_rank_and_for_the_exchange():
    rng = np.random.default_rng(0)
    assert simulate_steps(100, 0.5, Cluster(8, 8), rng, exchange_s=0.1).seconds == pytest.approx(60.0)
    slow = Cluster(8, 8, slow=1 / 8, slowdown=1.5)
    assert simulate_steps(100, 0.5, slow, rng).seconds == pytest.approx(75.0), "one machine of eight, all wait"
    spread = [simulate_steps(200, 0.5, Cluster(n, 8), rng, jitter=0.1).seconds for n in (1, 2, 4, 8)]
    assert spread == sorted(spread)


def test_a_failure_costs_the_steps_since_the_last_saved_state_and_the_wait():
    failing = dataclasses.replace(FAILING, mtbf_s=400.0)
    calm = dataclasses.replace(FAILING, mtbf_s=math.inf)
    run = simulate_steps(5000, 0.1, failing, np.random.default_rng(0), save_every=10)
    ideal = simulate_steps(5000, 0.1, calm, np.random.default_rng(0), save_every=10)
    assert run.failures > 2
    assert 0.0 < run.lost_s <= run.failures * 10 * 0.1
    waits = run.failures * (FAILING.restart_s + FAILING.start_s)  # less where one comes in the wait for another
    assert ideal.seconds + run.lost_s + waits / 2 <= run.seconds <= ideal.seconds + run.lost_s + waits + 1e-6
