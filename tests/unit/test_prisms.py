"""Inside and outside without the kernel, against the kernel."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OCP.BRepClass3d import BRepClass3d_SolidClassifier
from OCP.gp import gp_Pnt
from OCP.TopAbs import TopAbs_IN, TopAbs_SOLID
from OCP.TopExp import TopExp_Explorer

from pipeline.cad.language.program import CadProgram, Profile
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.cad.parts.draft import CUT, INTERSECT, JOIN, NEW
from pipeline.cad.parts.shapes import circle, extrude, polygon, rectangle, rounded, symmetric, two_sided
from pipeline.cad.solids import kernel
from pipeline.cad.solids.prisms import Prisms, bounds, combine, inside, operations_of
from pipeline.cad.solids.rays import RayScene
from pipeline.runtime.errors import RejectError

BLOCK = extrude("top", rectangle(2, 3), 4.0)


def in_solid(solid, point):
    """What the kernel says of one point: exact, and slow."""
    explorer = TopExp_Explorer(solid, TopAbs_SOLID)
    while explorer.More():
        if BRepClass3d_SolidClassifier(explorer.Current(), gp_Pnt(*point.tolist()), 1e-9).State() == TopAbs_IN:
            return True
        explorer.Next()
    return False


def compare(program, num_points):
    """Share of random points for which a mesh says the same; where it says something else, the kernel is asked."""
    solid = kernel.build(program)
    low, high = (np.array(corner) for corner in kernel.bounding_box(solid))
    margin = 0.05 * (high - low)
    points = np.random.default_rng(0).uniform(low - margin, high + margin, (num_points, 3))
    found = inside(program, points)
    mesh = kernel.tessellate(solid, 0.001 * (high - low).max())
    differ = np.flatnonzero(found != RayScene.of(mesh).contains(points))
    assert [in_solid(solid, points[i]) for i in differ] == found[differ].tolist()
    volume, spread = np.prod(high - low + 2 * margin), math.sqrt(found.mean() * (1 - found.mean()) / num_points)
    assert found.mean() * volume == pytest.approx(kernel.volume(solid), abs=4.5 * spread * volume)
    return 1 - len(differ) / num_points


@pytest.mark.parametrize("family", sorted(synthesis.FAMILIES))
def test_every_family_is_as_the_kernel_builds_it(family):
    for number in range(2):
        assert compare(synthesis.make_part(5, number, (family,)).program, 20_000) > 0.995


@pytest.mark.slow
def test_real_models_are_as_the_kernel_builds_them(real_models):
    shares = [compare(documents.loads(path.read_bytes()), 5000) for path in real_models[::3]]
    assert min(shares) > 0.995
    assert np.mean(shares) > 0.9995


MADE = {
    "cut through both": [BLOCK, extrude("top", circle(1), symmetric(9), CUT)],
    "nothing to cut": [BLOCK, extrude("top", circle(1), -9.0, CUT)],
    "joined apart": [BLOCK, extrude("right", circle(1), 1.0, JOIN, (5.0, 0.0, 0.0))],
    "new overlaps": [BLOCK, extrude("front", circle(2), two_sided(3, 0.5), NEW)],
    "common": [BLOCK, extrude("front", circle(2), two_sided(1, 1), INTERSECT)],
    "added after common": [BLOCK, extrude("front", circle(2), symmetric(1), INTERSECT), extrude("top", circle(1), 9.0)],
    "profiles overlap": [extrude("top", [Profile(rectangle(2, 2)), Profile(circle(2, 1, 1))], 1.0)],
    "profiles overlap in a cut": [BLOCK, extrude("top", [Profile(circle(1)), Profile(circle(1, 0.3))], 2.0, CUT)],
    "profiles overlap in common": [BLOCK, extrude("top", [Profile(circle(2)), Profile(circle(1, 1))], 2.0, INTERSECT)],
    "profiles touch": [extrude("top", [Profile(rectangle(2, 2)), Profile(rectangle(2, 2, 2))], 1.0)],
    "island in a hole": [extrude("top", [Profile(circle(4), (circle(3),)), Profile(circle(2))], 1.0)],
    "long arc": [extrude("top", rounded(4, 1, 0.5), 2.0), extrude("top", rounded(1, 4, 0.5), 3.0, CUT)],
}


@pytest.mark.parametrize("name", MADE)
def test_operations_are_the_kernels(name):
    assert compare(CadProgram(tuple(MADE[name])), 20_000) > 0.995


def turn_of(seed):
    """A random rotation."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def moved(program, turn, shift):
    """The program turned, then shifted."""

    def of(plane):
        return replace(
            plane,
            origin=tuple((turn @ plane.origin + shift).tolist()),
            x_axis=tuple((turn @ plane.x_axis).tolist()),
            normal=tuple((turn @ plane.normal).tolist()),
        )

    return CadProgram(
        tuple(
            replace(e, sketches=tuple(replace(sketch, plane=of(sketch.plane)) for sketch in e.sketches))
            for e in program.extrudes
        )
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(synthesis.FAMILIES)))
def test_what_moves_together_stays_as_it_is(seed, family):
    program = synthesis.make_part(seed, 0, (family,)).program
    low, high = bounds(program)
    points = np.random.default_rng(seed).uniform(low, high, (500, 3))
    turn, shift = turn_of(seed), np.random.default_rng(seed).normal(size=3)
    there = moved(program, turn, shift)
    np.testing.assert_array_equal(inside(there, points @ turn.T + shift), inside(program, points))
    (low, high), turned = bounds(there), points[inside(program, points)] @ turn.T + shift
    assert (turned > low).all()
    assert (turned < high).all()


def test_other_extrusions_memberships_hold_when_one_changes():
    program = synthesis.make_part(0, 0, ("machined_block",)).program
    points = np.random.default_rng(0).uniform(*bounds(program), (2000, 3))
    memberships = Prisms.of(program.extrudes).memberships(points)
    assert memberships.shape == (len(program.extrudes), 2000)
    last = program.extrudes[-1]
    extrudes = (*program.extrudes[:-1], replace(last, extent=replace(last.extent, one=last.extent.one / 2)))
    memberships[-1] = Prisms.of(extrudes[-1:]).memberships(points)[0]
    changed = CadProgram(extrudes)
    np.testing.assert_array_equal(combine(operations_of(changed), memberships), inside(changed, points))
    assert (inside(changed, points) != inside(program, points)).any()


def test_many_points_are_judged_as_few():
    program = CadProgram(tuple(MADE["profiles overlap"]))
    points = np.random.default_rng(0).uniform(*bounds(program), (400_000, 3))
    np.testing.assert_array_equal(inside(program, points)[::1000], inside(program, points[::1000]))
    np.testing.assert_array_equal(inside(program, points[:0]), np.zeros(0, bool))


@pytest.mark.parametrize("family", sorted(synthesis.FAMILIES))
def test_bounds_are_the_kernels(family):
    program = synthesis.make_part(2, 0, (family,)).program
    turned = moved(program, turn_of(1), np.ones(3))
    for there in (program,) if INTERSECT in operations_of(program) else (program, turned):
        low, high = kernel.bounding_box(kernel.build(there))
        assert bounds(there)[0] == pytest.approx(low, abs=1e-6)
        assert bounds(there)[1] == pytest.approx(high, abs=1e-6)


def test_bounds_are_those_of_what_is_common():
    program = CadProgram(tuple(MADE["common"]))
    assert bounds(program) == (pytest.approx((-1, -1, 0)), pytest.approx((1, 1, 1)))


@pytest.mark.parametrize(
    ("extrudes", "reason"),
    [
        ((), "empty_solid: there is no extrusion"),
        ((BLOCK, extrude("top", circle(1), 0.0)), "degenerate_extrusion: extrusion 2 encloses no volume"),
        ((extrude("top", polygon([(0, 0), (1, 0), (2, 0)]), 1.0),), "degenerate_extrusion: extrusion 1 encloses"),
        ((BLOCK, BLOCK, extrude("top", circle(0), 1.0)), "degenerate_extrusion: extrusion 3 encloses"),
        ((extrude("top", [], 1.0),), "degenerate_extrusion: extrusion 1 has no profile"),
        ((extrude("top", circle(math.nan), 1.0),), "degenerate_extrusion: extrusion 1 encloses no volume"),
    ],
)
def test_degenerate_programs_have_a_reason(extrudes, reason):
    with pytest.raises(RejectError, match=reason):
        inside(CadProgram(tuple(extrudes)), np.zeros((4, 3)))
