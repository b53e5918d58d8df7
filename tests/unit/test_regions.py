"""Points of the plane in profiles, against polygons."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cad.language.program import Arc, Circle, Line, Loop, Profile
from pipeline.cad.language.regions import Regions
from pipeline.cad.parts.shapes import circle, polygon, rectangle, rounded

POINTS = np.random.default_rng(0).uniform(-3, 3, (300, 2))


def contains(regions, points):
    """(R, N) bool for points of the sketch."""
    feet = [np.array([points[:, 0] - c.real, points[:, 1] - c.imag, np.ones(len(points))]) for c in regions.centres]
    return np.array([regions.contains(i, feet[i]) for i in range(len(feet))])


def in_polygons(profile, points):
    """(N,) bool: in an odd number of the outlines; NaN within a thousandth of a circle."""
    odd = np.zeros(len(points))
    for loop in profile.loops:
        outline = loop.outline(300)
        for (x0, y0), (x1, y1) in zip(outline, outline[1:] + outline[:1], strict=True):
            straddling = np.flatnonzero((y0 > points[:, 1]) != (y1 > points[:, 1]))
            x, y = points[straddling].T
            odd[straddling] += x < x0 + (y - y0) / (y1 - y0) * (x1 - x0)
        for curve in loop.curves:
            if isinstance(curve, Arc | Circle):
                off = np.linalg.norm(points - curve.centre, axis=1) - curve.radius
                odd[np.abs(off) < 1e-3] = np.nan
    return odd % 2


@st.composite
def loops(draw):
    """Corners anywhere, joined by lines and arcs of any sweep: they may cross."""
    level = st.integers(-40, 40).map(lambda n: n / 20)
    corners = draw(st.lists(st.tuples(level, level), min_size=2, max_size=6, unique=True))
    sweeps = draw(st.lists(st.sampled_from([0, 0, 0.4, -0.4, 2, -2, math.pi, 4.5, -6]), min_size=6, max_size=6))
    edges = [
        Arc.through(start, end, sweep) if sweep else Line(start, end)
        for start, end, sweep in zip(corners, corners[1:] + corners[:1], sweeps, strict=False)
    ]
    return Loop(tuple(edges))


@settings(max_examples=60, deadline=None)
@given(st.lists(loops(), min_size=1, max_size=3), st.booleans())
@pytest.mark.slow
def test_points_are_in_an_odd_number_of_loops(made, with_circle):
    profile = Profile(made[0], (*made[1:], *([circle(2.5, 0.3, -0.2)] if with_circle else [])))
    expected = in_polygons(profile, POINTS)
    # Another region before it and one after it: each has its own curves.
    found = contains(Regions.of([Profile(circle(1)), profile, Profile(rounded(3, 2, 0.5))]), POINTS)
    clear = ~np.isnan(expected)
    np.testing.assert_array_equal(found[1, clear], expected[clear] == 1)
    np.testing.assert_array_equal(found[0], np.linalg.norm(POINTS, axis=1) < 0.5)


@settings(max_examples=60, deadline=None)
@given(loops(), st.floats(0, math.tau))
def test_boxes_and_reaches_are_those_of_a_fine_outline(loop, angle):
    regions = Regions.of([Profile(rectangle(1, 1)), Profile(loop)])
    outline = np.array(loop.outline(1000))
    centre = regions.centres[1]
    low, high = outline.min(axis=0), outline.max(axis=0)
    assert [centre.real, centre.imag] == pytest.approx((low + high) / 2, abs=1e-3)
    assert regions.sizes[1] == pytest.approx(high - low, abs=1e-3)
    direction = np.exp(1j * angle)
    reach = regions.curves.reaches(np.array([[direction]]))[0, regions.firsts[1] :].max()
    along = (outline - [centre.real, centre.imag]) @ [direction.real, direction.imag]
    assert reach == pytest.approx(along.max(), abs=1e-3)


def test_areas_are_those_within_the_outer_loop():
    profiles = [Profile(rounded(4, 2, 1), (circle(1),)), Profile(circle(3)), Profile(polygon([(0, 0), (2, 0), (0, 2)]))]
    assert Regions.of(profiles).areas == pytest.approx([4 + math.pi, 2.25 * math.pi, 2])


def test_only_a_rectangle_along_the_axes_is_its_box():
    turned = polygon([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)])
    shapes = [
        Profile(rectangle(2, 3, 7, 1)),
        Profile(turned),
        Profile(circle(2)),
        Profile(rectangle(2, 3), (circle(1),)),
    ]
    assert Regions.of(shapes).are_boxes == [True, False, False, False]
