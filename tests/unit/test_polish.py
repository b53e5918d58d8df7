"""Numbers put where the cloud has them."""

import numpy as np
import pytest

from pipeline.cad.language.layout import Ring
from pipeline.cad.language.program import Operation
from pipeline.cad.language.tokens import FINE
from pipeline.generation.search.evidence import Evidence
from pipeline.generation.search.form import shapes_of
from pipeline.generation.search.polish import polished
from tests.unit.test_search import CODEC, PART, SHEET, YZ, box, cloud_of, ring, step

pytestmark = pytest.mark.slow


def numbers(form):
    """All numbers of a form, in fine steps."""
    for prism in form:
        yield from (prism.low, prism.high)
        for shape in shapes_of(prism):
            if isinstance(shape, Ring):
                yield from (shape.x, shape.y, shape.radius)
            else:
                yield from (value for x, y, *_ in shape.corners for value in (x, y))


MOVED = (
    step(Operation.NEW, -30.3, 0.2, (box(-126.8, -80.3, 126.7, 79.8), (ring(20.3, -70.2, 0.1), ring(20.1, 69.8, 0)))),
    step(Operation.JOIN, 0.2, 29.7, (ring(40.3, 0.2, -0.2), ())),
    step(Operation.CUT, -15.3, 15.2, (box(-80, 9.8, 80, 30), ()), plane=YZ),  # the rest of it meets nothing
)


@pytest.mark.parametrize(("noise", "within"), [(0.0, 0.1), (0.002, 0.25)])
def test_numbers_are_put_where_the_cloud_has_them(noise, within):
    evidence = Evidence.of(cloud_of(PART, noise=noise), 600, 512, 0)
    found = polished(MOVED, evidence, CODEC)
    off = np.abs(np.subtract(list(numbers(found)), list(numbers(PART)))) / FINE
    assert off.max() < within
    assert found[0].high == found[1].low  # faces that touch still touch
    assert np.abs(np.subtract(list(numbers(MOVED)), list(numbers(PART)))).max() / FINE > 0.5


def test_what_noise_cannot_tell_from_each_other_is_one_number():
    evidence = Evidence.of(cloud_of(PART, noise=0.004), 600, 512, 0)
    first, second = (hole for _, holes in polished(MOVED, evidence, CODEC)[0].profiles for hole in holes)
    assert first.radius == second.radius
    exact = Evidence.of(cloud_of(SHEET), 600, 512, 0)
    assert polished(SHEET, exact, CODEC)[0].low < polished(SHEET, exact, CODEC)[0].high  # thinner than a reach
