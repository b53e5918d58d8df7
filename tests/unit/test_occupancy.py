"""Inside and outside of solids."""

import numpy as np
import pytest

from pipeline.cad.language.program import Frame
from pipeline.cad.parts import synthesis
from pipeline.cad.solids import kernel
from pipeline.cad.solids.rays import RayScene
from pipeline.geometry.occupancy import sample_occupancy
from pipeline.runtime.seeds import generator


def normalised(family, number):
    solid = kernel.build(synthesis.make_part(0, number, (family,)).program)
    frame = Frame.of_box(*kernel.bounding_box(solid))
    return kernel.tessellate(solid, 0.004 * frame.scale).normalised(frame), kernel.volume(solid) / frame.scale**3


@pytest.mark.parametrize("family", synthesis.FAMILIES)
def test_the_share_of_points_inside_is_the_volume(family):
    mesh, volume = normalised(family, 1)
    points = np.random.default_rng(0).uniform(-1, 1, (200_000, 3))
    assert RayScene.of(mesh).contains(points).mean() * 8 == pytest.approx(volume, rel=0.02, abs=0.01)


def test_points_are_half_near_the_surface_and_always_the_same():
    mesh, volume = normalised("flange", 0)
    queries = sample_occupancy(mesh, 4096, generator(7))
    assert queries.shape == (4096, 4)
    assert set(np.unique(queries[:, 3])) == {0.0, 1.0}
    near, anywhere = queries[:2048, 3].mean(), queries[2048:, 3].mean()
    assert 0.35 < near < 0.6
    assert anywhere == pytest.approx(volume / 2.1**3, abs=0.03)
    np.testing.assert_array_equal(queries, sample_occupancy(mesh, 4096, generator(7)))
