"""A user's scan without most of its noise."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from pipeline.cad.exchange import smoothing
from pipeline.cad.exchange.scans import read_scan
from pipeline.cad.exchange.smoothing import SMOOTHED, smoothed
from pipeline.cad.language.program import Frame
from pipeline.cad.parts import synthesis
from pipeline.cad.solids.distances import to_surface
from pipeline.cad.solids.mesh import Surface, flat_mesh
from pipeline.cad.solids.normals import estimate_normals
from pipeline.cad.solids.sampling import sample_surface
from pipeline.geometry.draw import normalised_mesh
from pipeline.pretraining.scans import scan
from pipeline.runtime.seeds import generator
from tests.conftest import longer

FAMILIES = ("flange", "l_bracket", "stepped_shaft")
FINE = (FAMILIES[0], *map(longer, FAMILIES[1:]))  # what takes seconds each
NUM_POINTS = 4096


@pytest.fixture(scope="module")
def meshes():
    return {family: normalised_mesh(synthesis.make_part(0, 0, (family,)).program) for family in FAMILIES}


def noisy(mesh, noise, count=NUM_POINTS):
    return scan(sample_surface(mesh, 2 * count, generator(1)), count, noise, 0.0, generator(2))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("noise", "share"), [(0.002, 0.65), (0.01, 0.35)])
def test_most_of_the_noise_goes(meshes, family, noise, share):
    cloud = noisy(meshes[family], noise)
    found, measured = smoothed(cloud, generator(0))
    assert measured == pytest.approx(noise, rel=0.3)
    assert found.shape == cloud.shape
    assert found.dtype == cloud.dtype
    before, after = (to_surface(points.astype(float), meshes[family]).mean() for points in (cloud, found))
    assert after < share * before  # of distances that are a little too long themselves
    assert np.linalg.norm(found[:, 3:], axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_clean_points_stay_whatever_their_normals_are(meshes, family):
    cloud = sample_surface(meshes[family], NUM_POINTS, generator(1))
    assert smoothed(cloud, generator(0))[0] is cloud
    guessed = np.concatenate([cloud[:, :3], estimate_normals(cloud[:, :3].astype(float))], axis=1)
    assert smoothed(guessed, generator(0), measured=False)[0] is guessed


@pytest.mark.slow
def test_a_large_cloud_is_thinned_and_blocks_change_nothing(meshes, monkeypatch):
    cloud = noisy(meshes["flange"], 0.01, SMOOTHED + 1000)
    found, _ = smoothed(cloud, generator(0))
    assert found.shape == (SMOOTHED, 6)
    monkeypatch.setattr(smoothing, "BLOCK", 1000)
    assert (smoothed(cloud, generator(0))[0] == found).all()


def test_points_that_come_many_times_and_few_points(meshes):
    cloud = sample_surface(meshes["flange"], 200, generator(1))
    many = np.repeat(cloud, 60, axis=0)
    assert smoothed(many, generator(0))[0] is many
    several = np.repeat(noisy(meshes["flange"], 0.01, 300), 60, axis=0)
    several[::2, 3:] *= -1  # and do not agree
    assert np.isfinite(smoothed(several, generator(0))[0]).all()
    assert np.isfinite(smoothed(noisy(meshes["flange"], 0.01, 16), generator(0))[0]).all()
    same = np.repeat(cloud[:1], 50, axis=0)
    assert smoothed(same, generator(0))[0] is same


def fine(mesh, noise):
    """A mesh of small triangles, as a scanner's are, whose corners are off by so much."""
    import trimesh

    found = trimesh.Trimesh(*trimesh.remesh.subdivide_to_size(mesh.vertices, mesh.triangles, 0.05))
    return trimesh.Trimesh(found.vertices + generator(3).normal(size=found.vertices.shape) * noise, found.faces)


def errors(points, mesh):
    """Of a cloud: mean distance from the surface, and mean cosine between its normals and the nearest true ones."""
    true = sample_surface(mesh, 8 * NUM_POINTS, generator(4))
    _, near = cKDTree(true[:, :3]).query(points[:, :3], k=4)  # beside an edge, either face's
    cosines = np.einsum("nki,ni->nk", true[near, 3:], points[:, 3:]).max(axis=1)
    return to_surface(points[:, :3].astype(float), mesh).mean(), cosines.mean()


@pytest.mark.parametrize("family", FINE)
@pytest.mark.slow
def test_a_noisy_mesh_is_smoothed_though_its_triangles_look_anywhere(meshes, family, tmp_path):
    noisy_mesh = fine(meshes[family], 0.01)
    noisy_mesh.export(tmp_path / "scan.stl")
    raw = sample_surface(flat_mesh(Surface(noisy_mesh.vertices, noisy_mesh.faces)), NUM_POINTS, generator(1))
    scan = read_scan(tmp_path / "scan.stl", NUM_POINTS)
    points = scan.points * np.array([scan.frame.scale] * 3 + [1] * 3) + np.array([*scan.frame.centre, 0, 0, 0])
    (before, turned), (after, cosine) = errors(raw, meshes[family]), errors(points, meshes[family])
    assert turned < 0.5
    assert cosine > 0.94
    assert after < 0.6 * before


@pytest.mark.parametrize("noise", [0.0, 0.003])
@pytest.mark.parametrize("family", FINE)
@pytest.mark.slow
def test_a_fine_mesh_that_is_not_rough_stays(meshes, family, noise, tmp_path):
    fine(meshes[family], noise).export(tmp_path / "scan.stl")
    said = []
    assert len(read_scan(tmp_path / "scan.stl", NUM_POINTS, said.append).points) == NUM_POINTS
    assert not any("smoothed" in line for line in said)


def test_a_noisy_scan_is_as_large_as_its_part(meshes, tmp_path):
    """Noise makes a cloud larger than the part; smoothed, it is as large again, and stands where it stood."""
    frame = Frame((3.0, -2.0, 1.0), 5.0)
    cloud = noisy(meshes["l_bracket"], 0.01).astype(float)
    low, high = cloud[:, :3].min(axis=0), cloud[:, :3].max(axis=0)
    assert (high - low).max() > 2.04
    cloud[:, :3] = cloud[:, :3] * frame.scale + frame.centre
    np.save(tmp_path / "scan.npy", cloud)
    said = []
    found = read_scan(tmp_path / "scan.npy", NUM_POINTS, said.append)
    assert any("smoothed" in line for line in said)
    assert np.abs(found.points[:, :3]).max() == pytest.approx(1)
    assert found.frame.scale == pytest.approx(frame.scale, rel=0.01)
    assert found.frame.centre == pytest.approx(frame.centre, abs=0.01 * frame.scale)
    placed = (found.points[:, :3] * found.frame.scale + found.frame.centre - frame.centre) / frame.scale
    assert to_surface(placed, meshes["l_bracket"]).mean() < 0.004
