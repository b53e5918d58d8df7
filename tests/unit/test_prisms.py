"""Inside and outside without the kernel, against the kernel."""

import numpy as np
import pytest

from pipeline.cad.parts import synthesis
from pipeline.cad.solids import kernel
from pipeline.cad.solids.prisms import inside


@pytest.mark.parametrize("family", sorted(synthesis.FAMILIES))
def test_every_family_is_judged_as_by_the_kernel(family):
    for number in range(3):
        program = synthesis.make_part(5, number, (family,)).program
        solid = kernel.build(program)
        low, high = (np.array(corner) for corner in kernel.bounding_box(solid))
        points = np.random.default_rng(number).uniform(low, high, (100_000, 3))
        found = inside(program, points)
        volume = np.prod(high - low) * found.mean()
        assert volume == pytest.approx(kernel.volume(solid), rel=0.02)
