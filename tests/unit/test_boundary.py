"""Points on the surface without the kernel, against the kernel."""

import math

import numpy as np
import pytest

from pipeline.cad.language.program import CadProgram, Frame, Profile
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.cad.parts.draft import CUT, INTERSECT, JOIN
from pipeline.cad.parts.shapes import circle, extrude, polygon, rectangle, symmetric
from pipeline.cad.solids import kernel
from pipeline.cad.solids.boundary import sample_boundary
from pipeline.cad.solids.distances import chamfer
from pipeline.cad.solids.sampling import sample_surface
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator
from tests.unit.test_prisms import MADE, in_solid, moved, turn_of

BLOCK = extrude("top", rectangle(2, 2), 1.0)
FINE = 0.001


def compare(program, num_exact=25):
    """A cloud against the kernel's solid: where it lies, its normals, and how even it is."""
    solid = kernel.build(program)
    frame = Frame.of_box(*kernel.bounding_box(solid))
    cloud = sample_boundary(program, 4096, generator(0))
    assert cloud.dtype == np.float32
    assert cloud.shape == (4096, 6)
    beside = 1e-5 * frame.scale * cloud[:num_exact, 3:].astype(float)
    assert [in_solid(solid, point) for point in cloud[:num_exact, :3] - beside] == [True] * num_exact
    assert [in_solid(solid, point) for point in cloud[:num_exact, :3] + beside] == [False] * num_exact
    mesh = kernel.tessellate(solid, FINE * frame.scale).normalised(frame)
    cloud[:, :3] = (cloud[:, :3] - frame.centre) / frame.scale
    reference, other = sample_surface(mesh, 4096, generator(1)), sample_surface(mesh, 4096, generator(2))
    noise = chamfer(other, reference)["chamfer_l1_mean"]
    assert chamfer(cloud, reference)["chamfer_l1_mean"] == pytest.approx(noise, rel=0.05)
    # What lies in a plane across an axis is as much of the one as of the other.
    for axis in range(3):
        for side in (-1, 1):
            mine, theirs = ((c[:, 3 + axis] * side > 0.999).mean() for c in (cloud, reference))
            assert mine == pytest.approx(theirs, abs=0.03)
    assert cloud[:, 3:].mean(axis=0) == pytest.approx(np.zeros(3), abs=0.06)  # as of any closed surface
    return cloud, mesh


@pytest.mark.parametrize("family", sorted(synthesis.FAMILIES))
def test_every_family_is_as_the_kernel_builds_it(family):
    cloud, mesh = compare(synthesis.make_part(7, 0, (family,)).program)
    corners = mesh.vertices[mesh.triangles]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    heights = np.einsum("nti,ti->nt", cloud[:200, None, :3] - corners[None, :, 0], across)
    agree = cloud[:200, 3:] @ across.T
    assert (np.where(np.abs(heights) < 2 * FINE, agree, -1).max(axis=1) > 0.97).all()


@pytest.mark.parametrize("name", MADE)
def test_operations_are_the_kernels(name):
    compare(CadProgram(tuple(MADE[name])))


@pytest.mark.slow
def test_real_models_are_as_the_kernel_builds_them(real_models):
    for path in real_models[1::5]:
        compare(documents.loads(path.read_bytes()), 8)


def share(cloud, axis, at):
    """How many of the points lie in a plane across an axis."""
    return float((np.abs(cloud[:, axis] - at) < 1e-6).mean())


def test_round_sides_have_normals_that_point_away():
    tube = CadProgram((extrude("top", [Profile(circle(4), (circle(2),))], 3.0),))
    cloud = sample_boundary(tube, 20_000, generator(0)).astype(float)
    radius, side = np.linalg.norm(cloud[:, :2], axis=1), np.abs(cloud[:, 5]) < 0.5
    area = 2 * math.pi * (2 + 1) * 3
    assert side.mean() == pytest.approx(area / (area + 2 * math.pi * (4 - 1)), abs=0.01)
    assert radius[side] == pytest.approx(np.where(radius[side] > 1.5, 2, 1), abs=1e-6)
    assert (radius[side] > 1.5).mean() == pytest.approx(2 / 3, abs=0.01)
    outward = np.where(radius > 1.5, 1, -1)[side, None] * cloud[side, :2] / radius[side, None]
    assert cloud[side, 3:5] == pytest.approx(outward, abs=1e-6)
    assert cloud[~side, 5] == pytest.approx(np.where(cloud[~side, 2] > 1.5, 1, -1))
    angles = np.arctan2(cloud[side, 1], cloud[side, 0])
    assert np.histogram(angles, 8)[0] / side.sum() == pytest.approx(np.full(8, 1 / 8), abs=0.01)


@pytest.mark.parametrize(
    "extrudes",
    [
        [BLOCK, BLOCK],  # the same twice
        [BLOCK, extrude("top", rectangle(1, 2, 0.5), 1.0, JOIN)],  # half of it again, with five faces in its planes
        [extrude("top", [Profile(rectangle(1, 2, -0.5)), Profile(rectangle(1, 2, 0.5))], 1.0)],  # halves
        [extrude("top", rectangle(2, 2), 0.5), extrude("top", rectangle(2, 2), 0.5, JOIN, (0.0, 0.0, 0.5))],  # stacked
        [extrude("top", [Profile(rectangle(2, 2)), Profile(rectangle(1, 1))], 1.0)],  # one profile within another
        [extrude("top", rectangle(2, 2), 2.0), extrude("top", rectangle(2, 2), 2.0, CUT, (0.0, 0.0, 1.0))],
        [extrude("top", rectangle(4, 2, 1), 1.0), extrude("right", rectangle(2, 2), symmetric(1), INTERSECT)],
        [BLOCK, extrude("top", circle(1), 1.0, CUT), extrude("top", circle(1), 1.0, JOIN)],  # a hole, closed again
        [BLOCK, extrude("top", circle(1), 1.0, CUT, (0.0, 0.0, 1.0))],  # it only touches
    ],
)
def test_no_face_is_counted_twice_and_none_is_within(extrudes):
    """Each makes the same block of 2 by 2 by 1."""
    cloud = sample_boundary(CadProgram(tuple(extrudes)), 8000, generator(0))
    on = {(axis, at): share(cloud, axis, at) for axis, at in ((0, -1), (0, 1), (1, -1), (1, 1), (2, 0), (2, 1))}
    assert sum(on.values()) == pytest.approx(1, abs=2e-3)
    assert [on[2, 0], on[2, 1]] == pytest.approx([0.25, 0.25], abs=0.015)
    assert [on[0, -1], on[0, 1], on[1, -1], on[1, 1]] == pytest.approx([0.125] * 4, abs=0.012)
    top = cloud[np.abs(cloud[:, 2] - 1) < 1e-6]
    quarters = np.histogram2d(top[:, 0], top[:, 1], 2)[0] / len(top)
    assert quarters == pytest.approx(np.full((2, 2), 0.25), abs=0.035)


def test_a_cloud_is_the_same_every_time_and_another_by_another_seed():
    program = synthesis.make_part(0, 0, ("pulley",)).program
    first = sample_boundary(program, 500, generator(3))
    assert first.tobytes() == sample_boundary(program, 500, generator(3)).tobytes()
    assert (first != sample_boundary(program, 500, generator(4))).any()
    assert len(sample_boundary(program, 1, generator(0))) == 1


def test_a_turned_program_has_as_even_a_cloud():
    compare(moved(CadProgram(tuple(MADE["long arc"])), turn_of(3), np.array([100.0, -50.0, 20.0])))


def test_a_small_rest_of_large_prisms_is_found():
    corner = extrude("right", rectangle(0.1, 0.1, 0.95, 0.95), symmetric(9), INTERSECT)
    small = extrude("front", rectangle(0.1, 0.1, 0.95, 0.95), symmetric(9), INTERSECT)
    cloud = sample_boundary(CadProgram((BLOCK, corner, small)), 600, generator(0))
    assert cloud[:, :3].min(axis=0) == pytest.approx((0.9, 0.9, 0.9), abs=0.01)
    assert cloud[:, :3].max(axis=0) == pytest.approx((1, 1, 1), abs=0.01)


@pytest.mark.parametrize(
    ("extrudes", "reason"),
    [
        ([BLOCK, extrude("top", rectangle(4, 4), symmetric(4), CUT)], "empty_solid: the operations leave nothing"),
        ([BLOCK, extrude("top", rectangle(1, 1, 9), 1.0, INTERSECT)], "empty_solid: the operations leave nothing"),
        ([], "empty_solid: there is no extrusion"),
        ([extrude("top", polygon([(0, 0), (1, 0)]), 1.0)], "degenerate_extrusion: extrusion 1"),
    ],
)
def test_what_has_no_surface_has_a_reason(extrudes, reason):
    with pytest.raises(RejectError, match=reason):
        sample_boundary(CadProgram(tuple(extrudes)), 64, generator(0))
