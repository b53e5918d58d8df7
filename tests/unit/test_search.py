"""Search: what a cloud tells, what is read off it, what moves find again, and what the kernel has to say."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.layout import Outline, Prism, Ring
from pipeline.cad.language.program import Operation
from pipeline.cad.language.tokens import FINE, TOKEN
from pipeline.cad.solids import boundary, prisms
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.execution.workers import Workers
from pipeline.generation.search import search as searching
from pipeline.generation.search.chain import READING, Chain
from pipeline.generation.search.contours import outlines
from pipeline.generation.search.evidence import Evidence
from pipeline.generation.search.form import form_of, length, program_of, rectangle, tokens_of, written
from pipeline.generation.search.search import CHAINS, Budget, RoundTask, Search, improved, search, searcher_of, work
from pipeline.generation.search.state import State
from pipeline.generation.search.vouch import VouchTask
from pipeline.runtime.errors import UserError
from pipeline.runtime.interrupt import Interrupted

pytestmark = pytest.mark.slow

CODEC = Codec(8)
FEW = 2048  # points of a cloud, where a whole search begins at it
XY, YZ = (TOKEN["XY"],), (TOKEN["YZ"],)


def at(*levels):
    """Levels in fine steps; 127 of them are the longest half-side."""
    return tuple(round(level * FINE) for level in levels)


def box(x0, y0, x1, y1):
    return rectangle(*at(x0, y0, x1, y1))


def ring(radius, x, y):
    return Ring(*at(2 * radius, x, y))


def step(operation, low, high, *regions, plane=XY):
    return Prism(operation, plane, *at(low, high), tuple(regions))


PLATE = step(Operation.NEW, -30, 0, (box(-127, -80, 127, 80), (ring(20, -70, 0), ring(20, 70, 0))))
BOSS = step(Operation.JOIN, 0, 30, (ring(40, 0, 0), ()))
SLOT = step(Operation.CUT, -15, 15, (box(-80, 10, 80, 30), ()), plane=YZ)
PART = (PLATE, BOSS, SLOT)
SHEET = (step(Operation.NEW, -1, 1, (box(-127, -100, 127, 100), (ring(30, 50, 20),))),)


def cloud_of(form, count=4096, noise=0.0, seed=0):
    cloud = boundary.sample_boundary(program_of(CODEC, form), count, np.random.default_rng(seed)).astype(float)
    rng = np.random.default_rng(seed)
    cloud[:, :3] += rng.normal(size=(len(cloud), 3)) * noise
    cloud[:, 3:] += rng.normal(size=(len(cloud), 3)) * 5 * noise
    cloud[:, 3:] /= np.linalg.norm(cloud[:, 3:], axis=1, keepdims=True)
    return cloud


def iou(a, b):
    """By inside and outside of 20,000 points in the box of both."""
    low, high = np.array([prisms.bounds(each) for each in (a, b)]).transpose(1, 0, 2)
    points = np.random.default_rng(1).uniform(low.min(axis=0), high.max(axis=0), (20_000, 3))
    first, second = (prisms.inside(each, points) for each in (a, b))
    return (first & second).sum() / (first | second).sum()


# A hole that is half outside of its profile: to the judge its other half is solid, to the kernel it is a fault.
CROSSED = (step(Operation.NEW, -30, 30, (box(-90, -60, 0, 60), (box(-30, -30, 90, 30),))),)


@pytest.fixture(scope="module")
def searchers():
    """A searcher for each of two parts, from its cloud."""
    return {form: searcher_of(Evidence.of(cloud_of(form), 6000, 4096, 0), 8) for form in (PART, SHEET)}


# -- forms -----------------------------------------------------------------------------------------------


def test_a_form_is_written_as_it_is_and_read_again():
    oblique = replace(BOSS, plane=(TOKEN["OBLIQUE"], *at(10, 7)))
    rounded = Outline((*((x, y, 0, 0) for x, y in (at(0, 0), at(50, 0), at(50, 40))), (*at(0, 40), 0, at(30)[0])))
    for form in (PART, SHEET, (PLATE, oblique), (replace(PLATE, profiles=((rounded, ()),)),)):
        assert form_of(CODEC, written(CODEC, form)) == form
        assert length(form) == pytest.approx(len(written(CODEC, form)), abs=3)


# -- evidence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [PART, SHEET])
def test_points_are_labelled_as_the_solid_has_them(form):
    evidence = Evidence.of(cloud_of(form), 2000, 1000, 0)
    inside = prisms.inside(program_of(CODEC, form), evidence.points)
    assert (inside == evidence.labels).mean() > 0.98
    assert evidence.labels.mean() > 0.3


def test_what_is_behind_a_hole_of_the_cloud_is_not_taken_for_outside():
    block = (step(Operation.NEW, -80, 80, (box(-127, -100, 127, 100), ())),)
    cloud = cloud_of(block, FEW)
    cloud = cloud[np.linalg.norm(cloud[:, :3] - cloud[:, :3].max(axis=0), axis=1) > 0.9]  # a corner
    assert len(cloud) < 0.9 * FEW
    evidence = Evidence.of(cloud, 2000, 100, 0)
    points, labels = evidence.points[: evidence.num_volume], evidence.labels[: evidence.num_volume]
    assert np.array_equal(labels, prisms.inside(program_of(CODEC, block), points))


def test_nothing_is_known_to_be_outside_where_the_end_of_the_part_is_missing():
    block = (step(Operation.NEW, -80, 80, (box(-127, -60, 127, 60), ())),)
    whole = cloud_of(block, FEW)
    cloud = whole[whole[:, 0] < 0.8]
    evidence = Evidence.of(cloud, 2000, 100, 0)
    assert evidence.limits[0] > whole[:, 0].max() > 0.99 > cloud[:, 0].max()
    assert (Evidence.of(whole, 100, 100, 0).limits[1:] < evidence.limits[1:]).all()
    points, labels = evidence.points[: evidence.num_volume], evidence.labels[: evidence.num_volume]
    assert not (prisms.inside(program_of(CODEC, block), points) & ~labels).any()
    assert (~labels).sum() > 100


def test_the_volume_is_known():
    evidence = Evidence.of(cloud_of(SHEET), 3000, 1000, 0)
    fine = (CODEC.step / FINE) ** 3
    expected = (254 * 200 - np.pi * 30**2) * 2 * FINE**3 * fine
    assert evidence.volume == pytest.approx(expected, rel=0.5)


def test_noise_is_measured():
    assert Evidence.of(cloud_of(PART, FEW), 100, 100, 0).noise < 1e-3
    assert Evidence.of(cloud_of(PART, FEW, noise=0.01), 100, 100, 0).noise == pytest.approx(0.01, rel=0.5)


# -- contours --------------------------------------------------------------------------------------------


def drawn(contains, walls, seed=0):
    feet = np.random.default_rng(seed).uniform(-1, 1, (6000, 2))
    return outlines(feet, contains(feet), walls, 0.0)


def test_a_disc_with_a_square_hole():
    turns = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    sides = np.linspace(-0.3, 0.3, 40)
    square = [
        (s * d[0] + 0.3 * d[1], s * d[1] + 0.3 * -d[0], -d[1], d[0])
        for d in ((1, 0), (0, 1), (-1, 0), (0, -1))
        for s in sides
    ]
    walls = np.concatenate([np.column_stack([0.8 * circle, circle]), square])
    walls = np.column_stack([walls, np.ones(len(walls))])

    def contains(p):
        return (np.hypot(*p.T) < 0.8) & (np.abs(p).max(axis=1) > 0.3)

    hole, disc = sorted(drawn(contains, walls), key=lambda loop: loop.area)
    assert disc.radius == pytest.approx(0.8, abs=0.003)
    assert abs(disc.corners[0]) < 0.003
    assert not hole.radius
    assert not any(hole.sweeps)
    corners = np.array(hole.corners)
    for corner in (0.3 + 0.3j, 0.3 - 0.3j, -0.3 + 0.3j, -0.3 - 0.3j):
        assert np.abs(corners - corner).min() < 0.03
    sides = np.maximum(np.abs(corners.real), np.abs(corners.imag))
    assert sides == pytest.approx(0.3, abs=0.02)


# -- judge -----------------------------------------------------------------------------------------------


def test_the_judge_knows_what_prisms_know(searchers):
    judge = searchers[PART].judge
    for form in (PART, PART[:1], (PLATE, replace(BOSS, operation=Operation.INTERSECT)), SHEET):
        truth = prisms.inside(program_of(CODEC, form), judge.evidence.points)
        assert np.array_equal(judge.inside(form), truth)


def test_the_truth_scores_best(searchers):
    for form, searcher in searchers.items():
        true = searcher.judge(form).value
        assert true > 0.96
        moved = (replace(form[0], low=form[0].low + FINE, high=form[0].high + FINE), *form[1:])
        assert searcher.judge(moved).value < true - 0.01


def test_a_spike_that_holds_no_point_costs_what_it_reaches(searchers):
    """Inside, outside and the distance of the cloud tell nothing of it."""
    judge, rim = searchers[SHEET].judge, 100
    corners = ((-127, -rim), (127, -rim), (140, 0), (127, 0.25), (127, rim), (-127, rim))
    spiked = replace(SHEET[0], profiles=((Outline(tuple((*at(x, y), 0, 0) for x, y in corners)), (ring(30, 50, 20),)),))
    fine = judge.fine_step * FINE
    assert judge.excess(SHEET) == 0
    assert judge.excess((spiked,)) == pytest.approx(13 * fine, abs=judge.evidence.spacing)
    assert judge((spiked,)).volume == pytest.approx(judge(SHEET).volume, abs=0.01)
    assert judge((spiked,)).value < judge(SHEET).value - 0.003
    # What is cut off again does not count, what is cut away neither.
    trimmed = step(Operation.INTERSECT, -9, 9, (box(-127, -127, 127, 127), ()))
    assert judge.excess((spiked, trimmed)) == 0
    assert judge.excess((*SHEET, replace(spiked, operation=Operation.CUT))) == 0


# -- moves -----------------------------------------------------------------------------------------------

OFF = {
    "numbers": (replace(PLATE, profiles=((box(-100, -80, 127, 60), (ring(14, -60, 9), ring(20, 70, 0))),)), BOSS, SLOT),
    "a step less": (PLATE, BOSS),
    "a first step less": (replace(BOSS, operation=Operation.NEW), SLOT),
    "a step more": (*PART, step(Operation.JOIN, -60, 40, (box(60, 20, 90, 70), ()))),
    "a hole less": (replace(PLATE, profiles=((box(-127, -80, 127, 80), (ring(20, -70, 0),)),)), BOSS, SLOT),
    "another operation": (PLATE, BOSS, replace(SLOT, operation=Operation.JOIN)),
    "another height": (replace(PLATE, low=PLATE.low + 24 * FINE, high=PLATE.high + 24 * FINE), BOSS, SLOT),
}


@pytest.mark.parametrize("start", OFF.values(), ids=OFF)
def test_what_is_off_is_found_again(searchers, start):
    searcher = searchers[PART]
    begun = searcher.judge(start)
    found = searcher.run(Chain(start, begun), 1200, np.random.default_rng(0))
    assert found.score.value > begun.value
    assert iou(program_of(CODEC, found.form), program_of(CODEC, PART)) > 0.98


# -- the whole search ------------------------------------------------------------------------------------


class Here:
    """A sandbox that works in this process; the kernel builds what it is let."""

    def __init__(self, builds=lambda tokens: True):
        self.builds, self.rounds = builds, 0

    def map(self, tasks):
        for task in tasks:
            if isinstance(task, RoundTask):
                self.rounds += 1
                yield work(task)
            else:
                yield 0.0 if self.builds(task.tokens) else Failure("invalid_solid")


def search_of(cloud, sandbox, starts=(), shown=None):
    return Search(cloud, 8, starts, 0, sandbox, (lambda _: None) if shown is None else shown.append)


def test_the_number_of_processes_changes_nothing():
    cloud = cloud_of(PART, FEW)
    one, two = (search(cloud, 8, [], 3, Workers(count), Budget(100)) for count in (1, 2))
    assert one == two
    assert one.tokens is not None
    assert search(cloud, 8, [], 4, Workers(1), Budget(100)).tokens != one.tokens


def test_a_part_is_found_from_its_cloud_alone():
    shown = []
    found = search_of(cloud_of(PART, FEW), Here(), shown=shown).run(Budget(2000))
    assert iou(CODEC.decode(found.tokens), program_of(CODEC, PART)) > 0.98
    values = [each.score.value for each in shown]
    assert values == sorted(values)
    assert values[-1] == found.score.value
    assert found.judged <= 2000 + CHAINS * READING


def test_a_thin_sheet_is_put_in_its_place():
    """Off by more than its thickness: nothing of it is where it should be."""
    (sheet,) = SHEET
    start = (replace(sheet, low=sheet.low + 4 * FINE, high=sheet.high + 4 * FINE),)
    assert iou(program_of(CODEC, start), program_of(CODEC, SHEET)) == 0
    found = search_of(cloud_of(SHEET, FEW), Here(), [tokens_of(CODEC, start)]).run(Budget(1200))
    assert iou(CODEC.decode(found.tokens), program_of(CODEC, SHEET)) > 0.97


def test_noise_and_holes_in_the_cloud():
    cloud = cloud_of(PART, FEW, noise=0.01)
    middles = cloud[np.random.default_rng(0).integers(FEW, size=(10, 1)), :3]
    seen = np.linalg.norm(cloud[:, :3] - middles, axis=2) > 0.2
    cloud = cloud[seen.all(axis=0)]
    assert len(cloud) < 0.85 * FEW
    found = search_of(cloud, Here()).run(Budget(2000))
    assert iou(CODEC.decode(found.tokens), program_of(CODEC, PART)) > 0.93


def test_what_the_kernel_refuses_is_never_best():
    start = tokens_of(CODEC, OFF["numbers"])
    begun = search_of(cloud_of(PART, FEW), Here(lambda tokens: tokens == start), [start])
    found = begun.run(Budget(1000))
    assert found.tokens == start
    assert found.score == begun.judge(form_of(CODEC, start))
    assert sum(isinstance(result, Failure) for result in begun.state.built.values()) > 3


def test_nothing_is_found_where_nothing_builds():
    found = search_of(cloud_of(PART, FEW), Here(lambda _: False)).run(Budget(200))
    assert found.tokens is None
    assert found.misfit is None


def test_a_stop_ends_it_with_what_is_best_so_far(monkeypatch):
    sandbox = Here()
    monkeypatch.setattr(searching, "ROUND", 100)
    monkeypatch.setattr(searching.interrupt, "requested", lambda: sandbox.rounds >= CHAINS)
    found = search_of(cloud_of(PART, FEW), sandbox).run(Budget())
    assert sandbox.rounds == CHAINS
    assert found.tokens is not None


def test_a_search_goes_on_where_it_stopped_and_with_a_larger_budget(monkeypatch, tmp_path):
    """All that it finds in the end is as if it had run at once."""
    monkeypatch.setattr(searching, "ROUND", 100)
    cloud, start = cloud_of(PART, FEW), [tokens_of(CODEC, OFF["numbers"])]
    sandbox = Here(lambda tokens: len(tokens) % 5 > 0)
    at_once = search_of(cloud, sandbox, start).run(Budget(6 * CHAINS * 100))

    def go_on(budget):
        sandbox = Here(lambda tokens: len(tokens) % 5 > 0)
        return sandbox, Search(cloud, 8, start, 0, sandbox, scratch=tmp_path).run(budget)

    with monkeypatch.context() as stopped:
        sandbox = Here(lambda tokens: len(tokens) % 5 > 0)
        stopped.setattr(searching.interrupt, "requested", lambda: sandbox.rounds >= 2 * CHAINS)
        Search(cloud, 8, start, 0, sandbox, scratch=tmp_path).run(Budget())
    (file,) = tmp_path.iterdir()
    state = State.loads(file.read_text())
    assert state.rounds == 2
    assert State.loads(state.dumps()) == state
    assert any(isinstance(found, Failure) for found in state.built.values())
    go_on(Budget(3 * CHAINS * 100 + 10))  # what is left of a round depends on the budget, and is not kept
    sandbox, found = go_on(Budget(6 * CHAINS * 100))
    assert found == at_once
    assert 0 < sandbox.rounds < 6 * CHAINS
    # A smaller budget has what it would have had, and leaves what is there.
    kept = file.read_text()
    sandbox, found = go_on(Budget(CHAINS * 100))
    assert found == search_of(cloud, Here(lambda tokens: len(tokens) % 5 > 0), start).run(Budget(CHAINS * 100))
    assert file.read_text() == kept
    Search(cloud, 8, start, 1, sandbox, scratch=tmp_path).run(Budget(2 * CHAINS * 100))  # another seed, another file
    assert len(list(tmp_path.iterdir())) == 2
    file.write_text(kept[: len(kept) // 2])
    with pytest.raises(UserError, match=rf"{file.name} is damaged .*; remove it"):
        go_on(Budget(6 * CHAINS * 100))


def test_what_follows_from_an_accident_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(searching, "ROUND", 100)

    class Unlucky(Here):
        def map(self, tasks):
            for task, result in zip(tasks, super().map(tasks), strict=True):
                yield Failure("timeout") if isinstance(task, RoundTask) and self.rounds == 2 * CHAINS else result

    Search(cloud_of(PART, FEW), 8, [], 0, Unlucky(), scratch=tmp_path).run(Budget(4 * CHAINS * 100))
    (file,) = tmp_path.iterdir()
    assert State.loads(file.read_text()).rounds == 1


def test_programs_are_improved_by_the_clouds_that_there_are_or_not_at_all(monkeypatch):
    monkeypatch.setattr(searching, "pool_for", lambda _: contextlib.nullcontext(Here()))
    start, clouds = tokens_of(CODEC, SHEET), [None, cloud_of(PART, FEW)]
    same, better = improved([start, start], clouds, 8, 100, 0, Workers(1))
    assert same == start
    assert iou(CODEC.decode(start), program_of(CODEC, PART)) < 0.5
    assert iou(CODEC.decode(better), program_of(CODEC, PART)) > 0.9
    monkeypatch.setattr(searching.interrupt.request, "signal_name", "SIGTERM")
    with pytest.raises(Interrupted):
        improved([start, start], clouds, 8, 100, 0, Workers(1))


def test_time_that_is_over_leaves_the_start():
    found = search_of(cloud_of(PART, FEW), Here()).run(Budget.of(0.0, None))
    assert found.tokens is not None


def test_a_solid_that_is_another_than_was_judged_is_refused():
    evidence = Evidence.of(cloud_of(PART, FEW), 500, 500, 0)
    tokens = tokens_of(CODEC, PART)
    with Sandbox(work, 1, 60, 4096) as sandbox:
        good = VouchTask(tokens, 8, evidence.telling, evidence.cloud)
        fits, fails = sandbox.map([good, replace(good, tokens=tokens_of(CODEC, CROSSED))])
    assert fits < 0.005
    assert isinstance(fails, Failure)
