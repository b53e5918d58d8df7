"""Pictures as what candidates are chosen by, and searched for."""

import numpy as np
import pytest
from PIL import Image

from pipeline.cad.language.codec import Codec
from pipeline.cad.solids import kernel
from pipeline.cad.solids.rendering import Pictures, render_views
from pipeline.execution.sandbox import Sandbox
from pipeline.execution.workers import Workers
from pipeline.generation.search.form import program_of, tokens_of
from pipeline.generation.search.search import Budget, search
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


def pictures_of(tokens, count, num_views=8, size=150):
    """As a user has them: of any size, and not all of the views."""
    views = render_views(kernel.tessellate(kernel.build(CODEC.decode(tokens)), DEFLECTION), num_views, 224)
    images = [Image.fromarray(view).resize((size, size), Image.Resampling.BICUBIC) for view in views[:count]]
    return Pictures.of(images, num_views)


@pytest.mark.parametrize(("count", "num_views"), [(8, 8), (2, 8), (1, 2)])
def test_the_candidate_most_like_the_pictures_is_chosen(sandbox, count, num_views):
    programs = [normalised(number) for number in range(6)]
    for true in (0, 3):
        shown = pictures_of(programs[true], count, num_views)
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


def test_pictures_are_explained_by_what_the_kernel_builds(tmp_path):
    mesh = kernel.tessellate(kernel.build(program_of(CODEC, PART)), DEFLECTION)
    pictures = Pictures.of([Image.fromarray(view) for view in render_views(mesh, 8, 128)], 8)
    start, shown = tokens_of(CODEC, OFF["a step more"]), []
    found = search(pictures, 8, [start], 0, Workers(1), Budget(160), shown.append, tmp_path)
    before, after = (iou(CODEC.decode(tokens), program_of(CODEC, PART)) for tokens in (start, found.tokens))
    assert before < 0.95 < 0.99 < after
    assert found.misfit < 0.2 * shown[0].misfit
    assert found.score.volume == found.score.surface == 1 - found.misfit
    assert search(pictures, 8, [start], 0, Workers(2), Budget(160)) == found
    assert search(pictures, 8, [start], 0, Workers(1), Budget(160), scratch=tmp_path) == found  # goes on from there
    assert search(pictures, 8, [], 0, Workers(1), Budget(160)).tokens is None
