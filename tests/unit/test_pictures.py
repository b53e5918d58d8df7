"""Pictures as what candidates are chosen by, and searched for."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.cad.language.codec import Codec
from pipeline.cad.solids import kernel
from pipeline.cad.solids.rendering import Pictures, read_image, render_views
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.execution.workers import Workers
from pipeline.generation import likeness
from pipeline.generation.likeness import STEP, LooksSearch, search_for
from pipeline.generation.search.form import program_of, tokens_of
from pipeline.generation.search.search import Budget
from pipeline.generation.select import build_candidate, select
from pipeline.geometry.draw import DEFLECTION
from tests.unit.test_generation import normalised, slightly_wrong
from tests.unit.test_search import OFF, PART, iou

pytestmark = pytest.mark.slow

CODEC = Codec(8)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(build_candidate, 1, 60, 4096) as made:
        yield made


def pictures_of(tokens, count, num_views=8, numbers=None, size=150):
    """As a user has them: of any size, and not all of the views."""
    views = render_views(kernel.tessellate(kernel.build(CODEC.decode(tokens)), DEFLECTION), num_views, 224)
    shown = views[:count] if numbers is None else views[list(numbers)]
    images = [Image.fromarray(view).resize((size, size), Image.Resampling.BICUBIC) for view in shown]
    return Pictures.of(images, num_views, numbers)


@pytest.mark.parametrize(("count", "num_views", "numbers"), [(8, 8, None), (2, 8, (6, 1)), (1, 2, None), (1, 4, (3,))])
def test_the_candidate_most_like_the_pictures_is_chosen(sandbox, count, num_views, numbers):
    programs = [normalised(number) for number in range(6)]
    for true in (0, 3):
        shown = pictures_of(programs[true], count, num_views, numbers)
        (found,) = select([[[1, 5], *programs]], [[0.0] * 7], [shown], 8, sandbox)
        assert list(found[0].tokens) == programs[true]
        assert found[0].misfit < 0.05 < found[1].misfit < 1
        assert found[-1].failure.reason == "incomplete"


def test_pictures_find_the_truth_among_nine_that_are_slightly_wrong(sandbox):
    rng = np.random.default_rng(0)
    for number in range(3):
        true = normalised(number)
        candidates = [*slightly_wrong(true, rng, 9), true]
        (found,) = select([candidates], [[0.0] * 10], [pictures_of(true, 8)], 8, sandbox)
        assert list(found[0].tokens) == true


def worse():
    """A program with a step too much, and pictures of the right one."""
    mesh = kernel.tessellate(kernel.build(program_of(CODEC, PART)), DEFLECTION)
    views = [Image.fromarray(view) for view in render_views(mesh, 8, 128)]
    return tokens_of(CODEC, OFF["a step more"]), Pictures.of(views, 8)


class Recorded:
    """A pool that says how much it was asked for; some programs take their worker with them."""

    def __init__(self, pool, lost=lambda tokens: False):
        self.pool, self.lost, self.asked = pool, lost, 0

    def map(self, tasks):
        for task in tasks:
            self.asked += 1
            if self.lost(task.tokens):
                yield Failure("crash")
            else:
                yield from self.pool.map([task])


def test_programs_are_changed_until_they_look_like_the_pictures():
    start, pictures = worse()
    shown = []
    found = search_for(pictures, 8, [start, [1, 5]], 0, Workers(2), Budget(10 * STEP), shown.append)
    before, after = (iou(CODEC.decode(tokens), program_of(CODEC, PART)) for tokens in (start, found.tokens))
    assert before < 0.95 < 0.99 < after
    assert found.misfit < 0.2 * shown[0].misfit
    assert [each.score.value for each in shown] == sorted(each.score.value for each in shown)
    one, two = (search_for(pictures, 8, [start, [1, 5]], 0, Workers(count), Budget(3 * STEP)) for count in (1, 2))
    assert one == two
    assert search_for(pictures, 8, [[1, 5]], 0, Workers(1), Budget(10 * STEP)).tokens is None


def test_a_search_for_goes_on_where_it_was_and_with_a_larger_budget(sandbox, monkeypatch, tmp_path):
    monkeypatch.setattr(likeness, "ROUND", 2)
    start, pictures = worse()

    def run(budget, **options):
        pool = Recorded(sandbox, lambda tokens: (len(tokens) - len(start)) % 7 == 1)
        return LooksSearch(pictures, 8, [start], 0, pool, **options).run(Budget(budget)), pool.asked

    at_once, asked = run(5 * STEP + 1)
    run(3 * STEP + 1, scratch=tmp_path)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["rounds"] == 2
    again, asked_again = run(5 * STEP + 1, scratch=tmp_path)
    assert again == at_once
    assert 0 < asked_again < asked
    kept = file.read_text()
    assert run(STEP + 1, scratch=tmp_path)[0] == run(STEP + 1)[0]  # a smaller one has what it would have had
    assert file.read_text() == kept


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_of_any_kind_and_shape_are_compared(sandbox, kind):
    program = normalised(3)
    views = render_views(kernel.tessellate(kernel.build(CODEC.decode(program)), DEFLECTION), 8, 300)
    images = []
    for view in views[:2]:
        file = io.BytesIO()
        Image.fromarray(view).convert("RGB").save(file, kind)
        images.append(Image.fromarray(read_image(file.getvalue(), "a", None)))
    (found,) = select([[program, normalised(0)]], [[0.0] * 2], [Pictures.of(images, 8)], 8, sandbox)
    assert list(found[0].tokens) == program
    assert found[0].misfit < 0.05
