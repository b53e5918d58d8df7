"""Topology against the figures that the paper's own tools printed, and exact predicates against known cases."""

import json
import math

import numpy as np
import pytest
import trimesh

from pipeline.cad.exchange.files import read_surface
from pipeline.metrics.assess import CompareTask, compare_files
from pipeline.metrics.intersections import Triangles, collinear, meet
from pipeline.metrics.topology import merged_figures, repair, topology
from pipeline.runtime.errors import RejectError
from tests.conftest import FIXTURES

FIGURES = FIXTURES / "topology"
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
BOX = (
    np.array([[x, y, z] for x in (0.0, 1) for y in (0.0, 1) for z in (0.0, 1)]),
    np.array([triangle for a, b, c, d in SIDES for triangle in ((a, b, c), (a, c, d))]),
)


def read_stl(data):
    """Vertices and triangles of a binary STL as the tools read it."""
    count = int.from_bytes(data[80:84], "little")
    record = np.dtype([("normal", "<3f4"), ("corners", "<9f4"), ("attribute", "<u2")])
    corners = np.frombuffer(data[84:], record, count)["corners"]
    return corners.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3)


def as_tools_read(path):
    """Of an STL itself, or of the one that the tools' script makes of another file."""
    return read_stl(path.read_bytes() if path.suffix == ".stl" else trimesh.load(path).export(file_type="stl"))


def commanded(path):
    """What ``cadmllm metrics`` says of a file, and the square of the unit that it is measured in."""
    answer = compare_files(CompareTask(path, path, 16, 0, False))
    assert answer["builds"], (path, answer)
    return answer["metrics"], read_surface(path).frame.scale ** 2


def stored(path, vertices, triangles):
    """A mesh file of these very triangles."""
    path.write_bytes(trimesh.Trimesh(vertices, triangles, process=False).export(file_type=path.suffix[1:]))
    return path


def recorded():
    return json.loads((FIGURES / "expected.json").read_text())["meshes"]


@pytest.mark.slow
def test_every_recorded_figure_is_reproduced():
    assert len(recorded()) == 38
    for name, expected in recorded().items():
        found = topology(*read_stl((FIGURES / f"{name}.stl").read_bytes()))
        assert found.segments == expected["segments"], name
        assert found.num_faces == expected["total_faces"], name
        assert found.self_intersecting_faces == expected["self_intersecting_faces"], name
        assert found.dangling_edge_length == pytest.approx(expected["dangling_edge_length_hp"], rel=1e-9), name
        if expected["flux_is_nan"]:
            assert math.isnan(found.flux_enclosure_error), name
        else:
            flux = abs(expected["flux_signed_hp"])
            assert abs(found.flux_enclosure_error - flux) <= 2e-6 + 1e-6 * flux, name


def test_the_plain_figures_stand_beside_them():
    for name, expected in recorded().items():
        found = merged_figures(*read_stl((FIGURES / f"{name}.stl").read_bytes()))
        plain = expected["naive"]
        assert found["segments_merged"] == plain["naive_segments_vertex"], name
        assert found["num_faces_merged"] == plain["naive_faces"], name
        assert found["dangling_edge_length_merged"] == pytest.approx(plain["naive_dangling"], abs=2e-6), name
        assert found["flux_enclosure_error_merged"] == pytest.approx(plain["naive_flux"], abs=2e-6), name


@pytest.mark.parametrize("suffix", ["stl", "ply"])
@pytest.mark.slow
def test_the_command_says_of_a_file_what_the_tools_printed(suffix):
    for name, expected in recorded().items():
        found, unit = commanded(FIGURES / f"{name}.{suffix}")
        assert found["segments"] == expected["segments"], name
        assert found["segment_error"] == 0, name
        ratio = expected["self_intersecting_faces"] / expected["total_faces"]
        assert found["self_intersection_ratio"] == ratio, name
        assert found["dangling_edge_length"] == pytest.approx(expected["dangling_edge_length_hp"], rel=1e-9), name
        if expected["flux_is_nan"]:
            assert found["flux_enclosure_error"] is None, name
        else:
            flux = abs(expected["flux_signed_hp"])
            assert abs(found["flux_enclosure_error"] * unit - flux) <= 2e-6 + 1e-6 * flux, name


@pytest.mark.parametrize("suffix", ["stl", "ply"])
@pytest.mark.slow
def test_the_command_computes_on_the_vertices_of_the_file(tmp_path, suffix):
    """T-junctions, turned, scaled and shifted: whether their faces meet is decided by the last digit."""
    vertices, triangles = as_tools_read(FIGURES / "syn_tjunction.ply")
    rng = np.random.default_rng(3)
    intersections = set()
    for _ in range(20):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        moved = vertices @ turn * 10 ** rng.uniform(-2, 2) + rng.normal(size=3) * 10 ** rng.uniform(-1, 2)
        path = stored(tmp_path / f"turned.{suffix}", moved, triangles)
        found, unit = commanded(path)
        own, plain = topology(*as_tools_read(path)), merged_figures(*as_tools_read(path))
        intersections.add(own.self_intersecting_faces)
        assert found["segments"] == own.segments
        assert found["dangling_edge_length"] == own.dangling_edge_length
        assert found["self_intersection_ratio"] == own.self_intersection_ratio
        assert found["flux_enclosure_error"] == own.flux_enclosure_error / unit
        assert found["segments_merged"] == plain["segments_merged"]
        assert found["dangling_edge_length_merged"] == plain["dangling_edge_length_merged"]
        assert found["flux_enclosure_error_merged"] == plain["flux_enclosure_error_merged"] / unit
    assert len(intersections) > 1


def test_near_vertices_are_merged_where_the_tools_merge_them(tmp_path):
    """An STL is taken as it is; of another file, trimesh merges what agrees to eight decimals."""
    near = BOX[0][BOX[1].ravel()] * 2.0**-7
    near[::5] += 2.0**-30  # more than float32 rounds off, less than the eighth decimal
    segments = {
        suffix: commanded(stored(tmp_path / f"near.{suffix}", near, np.arange(36).reshape(-1, 3)))[0]["segments"]
        for suffix in ("stl", "ply", "glb")
    }
    assert segments["stl"] > 1
    assert segments["ply"] == segments["glb"] == 1


def test_a_box_is_closed_and_a_box_without_a_face_is_not():
    whole = topology(*BOX)
    assert (whole.segments, whole.dangling_edge_length, whole.self_intersecting_faces) == (1, 0.0, 0)
    assert whole.flux_enclosure_error == pytest.approx(0, abs=1e-12)
    opened = topology(BOX[0], BOX[1][2:])
    assert opened.dangling_edge_length == pytest.approx(4 / 0.5)
    assert opened.flux_enclosure_error == pytest.approx(1)
    turned = BOX[1].copy()
    turned[5] = turned[5][::-1]
    assert topology(BOX[0], turned) == whole


def test_figures_do_not_depend_on_the_order_of_vertices():
    rng = np.random.default_rng(0)
    order = rng.permutation(8)
    assert topology(BOX[0][order], np.argsort(order)[BOX[1]]) == topology(*BOX)


def test_copies_of_faces_change_places_with_faces_from_the_end():
    """A B b a b C D E, small letters copies: the first b and E, the second and D, then a and C."""
    vertices = np.random.default_rng(0).normal(size=(15, 3)).astype(np.float32)
    a, b, c, d, e = np.arange(15).reshape(5, 3)
    found = repair(vertices, np.array([a, b, np.roll(b, 1), a[::-1], b, c, d, e])).corners
    assert found.tolist() == vertices[np.array([a, b, e, c, d])].tolist()


@pytest.mark.parametrize(
    ("vertices", "triangles", "reason"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), int), "empty_mesh"),
        (np.zeros((3, 3)), np.array([[0, 1, 2]]), "empty_mesh"),
        (np.array([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]]), np.array([[0, 1, 2]]), "bad_mesh"),
        (np.array([[0, 0, 0], [1, 0, 0], [0, 1e300, 0]]), np.array([[0, 1, 2]]), "bad_mesh"),
    ],
)
def test_what_is_no_mesh_is_an_error_and_not_zero(vertices, triangles, reason):
    with pytest.raises(RejectError) as error:
        repair(vertices, triangles)
    assert error.value.reason == reason


def test_touching_is_decided_exactly():
    third = np.float32(1 / 3)
    base = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    at = np.array([*base, [third, third, 0], [third, third, 1], [third, 1, 1]], np.float64)
    one, two = np.array([[0, 1, 2]]), np.array([[3, 4, 5]])
    assert meet(Triangles(at), one, two).tolist() == [True]
    at[3, 2] = np.nextafter(np.float32(0), np.float32(1))  # one float32 above the plane
    assert meet(Triangles(at), one, two).tolist() == [False]


@pytest.mark.slow
def test_triangles_meet_as_often_as_sampling_says():
    """Against an independent test: the closest points of two triangles, by a fine grid of points."""
    rng = np.random.default_rng(1)
    corners = rng.normal(size=(60, 6, 3))
    grid = np.array([(i / 60, j / 60) for i in range(61) for j in range(61 - i)])
    weights = np.column_stack([1 - grid.sum(axis=1), grid])
    from scipy.spatial import cKDTree

    for each in corners:
        met = meet(Triangles(each), np.array([[0, 1, 2]]), np.array([[3, 4, 5]]))[0]
        distance = cKDTree(weights @ each[:3]).query(weights @ each[3:])[0].min()
        if met:
            assert distance < 0.2
        elif distance < 1e-3:
            pytest.fail(f"said to be apart at {distance}")


def test_lines_of_points_have_no_area():
    flat = np.array([[0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [2 / 3, 2 / 3, 2 / 3]])
    bent = flat.copy()
    bent[1, 2] = np.nextafter(bent[1, 2], 1)
    assert collinear(np.stack([flat, bent, np.eye(3)])).tolist() == [True, False, False]
