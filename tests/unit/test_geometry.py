"""Solids, points and views."""

import math

import numpy as np
import pytest

from pipeline.cad.language.program import CadProgram, Frame, Profile
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.cad.parts.draft import CUT, INTERSECT, JOIN
from pipeline.cad.parts.shapes import circle, extrude, rectangle, rounded, symmetric, two_sided
from pipeline.cad.solids import kernel
from pipeline.cad.solids.rendering import VIEW_DIRECTIONS, encode_png, read_image, render_views
from pipeline.cad.solids.sampling import sample_surface
from pipeline.geometry.draw import normalised_mesh
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator


def volume(*extrudes):
    return kernel.volume(kernel.build(CadProgram(extrudes)))


def test_volumes_are_exact():
    box = extrude("top", rectangle(2, 3), 4.0)
    assert volume(box) == pytest.approx(24)
    assert volume(extrude("right", circle(2), 5.0)) == pytest.approx(5 * math.pi)
    assert volume(box, extrude("top", circle(1), 10.0, CUT)) == pytest.approx(24 - math.pi)
    assert volume(box, extrude("top", rectangle(1, 1), -1.0, JOIN)) == pytest.approx(25)
    assert volume(box, extrude("top", rectangle(1, 1), two_sided(1, 1), INTERSECT)) == pytest.approx(1)
    assert volume(extrude("front", [Profile(rounded(4, 2, 1), (circle(1),))], symmetric(0.5))) == pytest.approx(
        4 + math.pi - math.pi / 4
    )


def test_what_cuts_everything_away_is_rejected():
    with pytest.raises(RejectError, match="empty_solid"):
        volume(extrude("top", rectangle(1, 1), 1.0), extrude("top", rectangle(4, 4), symmetric(4), CUT))


def test_the_box_is_that_of_the_solid():
    shape = kernel.build(CadProgram((extrude("right", circle(2, 1, 1), 3.0, at=(1.0, 0.0, 0.0)),)))
    low, high = kernel.bounding_box(shape)
    assert low == pytest.approx((1, 0, 0), abs=1e-6)
    assert high == pytest.approx((4, 2, 2), abs=1e-6)


@pytest.mark.parametrize("family", sorted(synthesis.FAMILIES))
def test_every_family_makes_solids(family):
    for number in range(6):
        shape = kernel.build(synthesis.make_part(3, number, (family,)).program)
        assert kernel.volume(shape) > 0


def test_real_models_make_solids_that_match_their_box(real_models):
    """The stated box is that of the whole original model, so not all match; those that do match closely."""
    import json

    small = [path for path in real_models if path.stat().st_size < 9000]
    matches = 0
    for path in small:
        data = path.read_bytes()
        low, high = kernel.bounding_box(kernel.build(documents.loads(data)))
        box = json.loads(data)["properties"]["bounding_box"]
        size = max(high[i] - low[i] for i in range(3))
        off = max(
            max(abs(box["min_point"][axis] - low[i]), abs(box["max_point"][axis] - high[i]))
            for i, axis in enumerate("xyz")
        )
        matches += off < 1e-3 * size
    assert matches > 0.5 * len(small)


def test_points_lie_on_the_surface_with_its_normals():
    mesh = normalised_mesh(CadProgram((extrude("top", circle(2), 2.0),)))
    points = sample_surface(mesh, 4000, generator(0))
    assert points.shape == (4000, 6)
    assert points.dtype == np.float32
    xyz, normals = points[:, :3], points[:, 3:]
    assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones(4000), abs=1e-5)
    side = np.abs(normals[:, 2]) < 0.5
    assert np.linalg.norm(xyz[side, :2], axis=1) == pytest.approx(np.ones(side.sum()), abs=0.01)
    assert (xyz[side, :2] * normals[side, :2]).sum(axis=1) == pytest.approx(np.ones(side.sum()), abs=0.02)
    assert np.abs(xyz[~side, 2]) == pytest.approx(np.ones((~side).sum()), abs=1e-6)
    assert side.mean() == pytest.approx(2 / 3, abs=0.01)  # the side's share of the area


def test_points_and_views_are_the_same_every_time():
    program = synthesis.make_part(0, 0, ("bearing_block",)).program
    first, second = normalised_mesh(program), normalised_mesh(program)
    assert sample_surface(first, 100, generator(7)).tobytes() == sample_surface(second, 100, generator(7)).tobytes()
    assert render_views(first, 8, 64).tobytes() == render_views(second, 8, 64).tobytes()


def test_views_show_the_solid_from_eight_sides():
    # A block with a bright small block on the corner +x +y +z: only views that look at it see that corner nearest.
    mesh = normalised_mesh(
        CadProgram((extrude("top", rectangle(2, 2), 1.0), extrude("top", rectangle(1, 1, 0.5, 0.5), 2.0, JOIN)))
    )
    views = render_views(mesh, 8, 96)
    assert views.shape == (8, 96, 96)
    assert views.dtype == np.uint8
    assert len(VIEW_DIRECTIONS) == 8
    for i in range(8):
        assert (views[i] == 255).mean() > 0.3  # the frame is not filled
        assert (views[i] < 255).mean() > 0.1
        for j in range(i):
            assert (views[i] != views[j]).any()


def test_the_frame_is_restored():
    program = synthesis.make_part(0, 0, ("flange",)).program
    frame = Frame.of_box(*kernel.bounding_box(kernel.build(program)))
    low, high = kernel.bounding_box(kernel.build(program.normalised(frame)))
    assert max(max(high), -min(low)) == pytest.approx(1, abs=1e-6)
    assert [a + b for a, b in zip(low, high, strict=True)] == pytest.approx([0, 0, 0], abs=1e-6)
    again = kernel.build(program.normalised(frame).restored(frame))
    assert kernel.volume(again) == pytest.approx(kernel.volume(kernel.build(program)), rel=1e-9)


def test_bad_pictures_are_rejected():
    for data in (b"", b"junk", encode_png(np.zeros((8, 8), np.uint8))[:40]):
        with pytest.raises(RejectError, match="bad_image"):
            read_image(data, "x.png", 32)
