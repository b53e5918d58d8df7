"""Clouds of a user's own, and what stands in for them: meshes and STEP."""

import io
import warnings

import numpy as np
import pytest
import trimesh

from pipeline.cad.exchange.files import ConvertTask, convert
from pipeline.cad.exchange.scans import read_scan
from pipeline.cad.language.program import Frame
from pipeline.cad.parts import synthesis
from pipeline.cad.solids import kernel
from pipeline.cad.solids.clouds import DENSE, normalise_points, read_array, read_text
from pipeline.cad.solids.distances import chamfer
from pipeline.cad.solids.sampling import sample_surface
from pipeline.generation.inputs import read_inputs
from pipeline.geometry.draw import normalised_mesh
from pipeline.runtime.errors import RejectError, UserError
from pipeline.runtime.seeds import generator

PROGRAM = synthesis.make_part(0, 0, ("flange",)).program
NUM_POINTS = 2048


@pytest.fixture(scope="module")
def mesh():
    return normalised_mesh(PROGRAM)


@pytest.fixture(scope="module")
def frame():
    return Frame.of_box(*kernel.bounding_box(kernel.build(PROGRAM)))


def test_a_users_cloud_is_normalised_and_gets_normals():
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(2000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    points = normalise_points(sphere * 40 + 7)
    assert np.abs(points[:, :3]).max() == pytest.approx(1, abs=1e-5)
    assert (points[:, :3] * points[:, 3:]).sum(axis=1).min() > 0.9  # outward
    # A point twice, or all of them, changes no normal.
    assert (normalise_points(np.repeat(sphere * 40 + 7, 12, axis=0))[::12] == points).all()


@pytest.mark.parametrize("noise", [0.0, 0.003])
@pytest.mark.slow
def test_a_large_cloud_is_thinned_and_its_normals_are_right(mesh, noise):
    true = sample_surface(mesh, 100_000, generator(1)).astype(np.float64)
    cloud = true[:, :3] + np.random.default_rng(0).normal(size=(len(true), 3)) * noise
    cloud = cloud[np.lexsort(cloud.T)]  # as a scanner writes it: from one end to the other
    points = normalise_points(cloud)
    assert points.shape == (DENSE, 6)
    assert (points == normalise_points(cloud)).all()
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    places = points[:, :3] * (high - low).max() / 2 + (high + low) / 2
    found = np.concatenate([places, points[:, 3:]], axis=1)
    assert chamfer(found, true)["chamfer_l1_mean"] < 0.01  # from all over the part
    _, nearest = trimesh.PointCloud(true[:, :3]).kdtree.query(found[:, :3])
    cosines = np.einsum("ni,ni->n", found[:, 3:], true[nearest, 3:])
    assert np.median(cosines) > np.cos(np.radians(4))
    assert (cosines < 0).mean() < 0.02


def test_a_cloud_in_one_plane_is_a_surface_and_one_on_a_line_is_none():
    rng = np.random.default_rng(0)
    flat = rng.random((500, 3)) * (1, 1, 0)
    assert np.abs(normalise_points(flat)[:, 5]) == pytest.approx(1)
    with pytest.raises(RejectError, match="on a line"):
        normalise_points(rng.random((500, 1)) * (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    "bad",
    [np.zeros((100, 4)), np.zeros((100, 3)), np.full((100, 3), np.nan), np.zeros((3, 3)), np.array(["a"] * 30),
     np.concatenate([np.random.default_rng(0).random((50, 3)), np.zeros((50, 3))], axis=1)],
)  # fmt: skip
def test_bad_clouds_are_rejected(bad):
    with pytest.raises(RejectError, match="bad_points"):
        normalise_points(bad)


def test_unusable_points_are_counted():
    cloud = np.random.default_rng(0).random((100, 3))
    cloud[:3, 0], cloud[50, 2] = np.nan, np.inf
    with pytest.raises(RejectError, match="in 4 of 100 points"):
        normalise_points(cloud)


def test_bad_arrays_are_rejected_and_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    for data in (b"", b"junk", b"\x93NUMPY", b"PK\x03\x04junk", (tmp_path / "bomb.npy").read_bytes()):
        with pytest.raises(RejectError, match="bad_points") as found:
            read_array(data, "x.npy")
        assert "allow_pickle" not in str(found.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("save", [np.save, np.savez_compressed])
def test_a_damaged_array_is_told(save):
    cloud, rng, rejected = np.random.default_rng(0).random((30, 3)), np.random.default_rng(1), 0
    file = io.BytesIO()
    save(file, cloud)
    for _ in range(300):
        data = bytearray(file.getvalue())
        data[rng.integers(128 if save is np.save else len(data))] ^= 1 << rng.integers(8)
        try:
            read_array(bytes(data), "x")
        except RejectError as error:
            assert error.reason == "bad_points"
            assert "x" in error.detail
            rejected += 1
    assert rejected > 100


def written(folder, true):
    """The same points in every format of clouds: file, and whether it holds normals."""
    rows = ["{:.6f} {:.6f} {:.6f} {:.6f} {:.6f} {:.6f}".format(*row) for row in true]
    places = [" ".join(row.split()[:3]) for row in rows]
    head = "ply\nformat {} 1.0\nelement vertex {}\n{}end_header\n"
    x, n = ("".join(f"property float {name}\n" for name in names.split()) for names in ("x y z", "nx ny nz"))
    text = {
        "a.xyz": (rows, True),
        "b.txt": (["# x y z", *places], False),
        "c.csv": (["x,y,z", *(row.replace(" ", ",") for row in places)], False),
        "d.csv": (["x;y;z;nx;ny;nz", *(row.replace(" ", ";") for row in rows)], True),
        "e.pts": ([str(len(rows)), *places], False),
        "f.obj": ([*(f"v {row}" for row in places), *(f"vn {' '.join(row.split()[3:])}" for row in rows)], True),
        "g.obj": ([f"v {row}" for row in places], False),
        "h.ply": ([head.format("ascii", len(rows), x + n) + rows[0], *rows[1:]], True),
        "i.ply": ([head.format("ascii", len(rows), x) + places[0], *places[1:]], False),
    }
    for name, (lines, has_normals) in text.items():
        (folder / name).write_text("\n".join(lines) + "\n")
        yield folder / name, has_normals
    for name, properties, columns in (("j.ply", x + n, 6), ("k.ply", x, 3)):
        header = head.format("binary_little_endian", len(true), properties).encode()
        (folder / name).write_bytes(header + true[:, :columns].astype("<f4").tobytes())
        yield folder / name, columns == 6
    np.savez(folder / "l.npz", points=true[:, :3], normals=true[:, 3:])
    yield folder / "l.npz", True


@pytest.mark.slow
def test_a_cloud_is_the_same_in_every_format(mesh, tmp_path):
    true = sample_surface(mesh, 3000, generator(1))
    given, estimated = normalise_points(true), normalise_points(true[:, :3].round(6))
    for path, has_normals in written(tmp_path, true):
        said: list[str] = []
        scan = read_scan(path, NUM_POINTS, said.append)
        expected = given if has_normals else estimated
        assert scan.points == pytest.approx(expected, abs=1e-3) or not has_normals, path.name
        assert (np.einsum("ni,ni->n", scan.points[:, 3:], expected[:, 3:]) > 0.99).mean() > 0.99, path.name
        assert scan.points[:, :3] == pytest.approx(expected[:, :3], abs=1e-4), path.name
        estimating = [] if has_normals else [f"{path}: 3,000 points without normals, estimating them"]
        assert said == [f"reading {path}", *estimating, f"{path}: 3,000 of 3,000 points taken"]


def test_what_takes_long_is_said_before_it(tmp_path, monkeypatch, capsys):
    cloud, said = np.random.default_rng(0).random((100, 3)), []
    np.save(tmp_path / "scan.npy", cloud)
    for function, expected in (("read_array", 1), ("normalise_points", 2)):
        monkeypatch.setattr(f"pipeline.cad.exchange.scans.{function}", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            read_scan(tmp_path / "scan.npy", NUM_POINTS, said.append)
        assert len(said) == expected
        monkeypatch.undo()
        said.clear()
    read_scan(cloud, NUM_POINTS)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["step", "stl", "ply", "obj", "glb"])
@pytest.mark.slow
def test_a_mesh_or_step_is_sampled_as_the_corpus_is(mesh, frame, tmp_path, suffix):
    path = tmp_path / f"part.{suffix}"
    convert(ConvertTask(PROGRAM, path))
    scan = read_scan(path, NUM_POINTS)
    true, other = (sample_surface(mesh, NUM_POINTS, generator(seed)) for seed in (1, 2))
    assert scan.points.shape == true.shape
    assert chamfer(scan.points, true)["chamfer_l1_mean"] < 1.1 * chamfer(other, true)["chamfer_l1_mean"]
    _, nearest = trimesh.PointCloud(true[:, :3]).kdtree.query(scan.points[:, :3])
    assert (np.einsum("ni,ni->n", scan.points[:, 3:], true[nearest, 3:]) > 0.9).mean() > 0.85  # also outward
    assert scan.frame.scale == pytest.approx(frame.scale, rel=1e-3)
    assert scan.frame.centre == pytest.approx(frame.centre, abs=1e-3 * frame.scale)
    assert (read_scan(path, NUM_POINTS).points == scan.points).all()


def test_a_mesh_that_is_inside_out_looks_outward(tmp_path):
    box = trimesh.creation.box()
    box.invert()
    box.export(tmp_path / "box.stl")
    points = read_scan(tmp_path / "box.stl", 500).points
    assert (points[:, :3] * points[:, 3:]).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_triangles_that_are_wound_otherwise_than_their_neighbours_look_outward(tmp_path):
    boxes = [trimesh.creation.box(), trimesh.creation.box().apply_translation((3, 0, 0))]
    for box, flipped in zip(boxes, ([0, 5, 7], range(9)), strict=True):
        box.faces[flipped] = box.faces[flipped][:, ::-1]
    for shapes in (boxes[:1], boxes):
        trimesh.util.concatenate(shapes).export(tmp_path / "boxes.stl")
        scan = read_scan(tmp_path / "boxes.stl", 500)
        places = scan.points[:, :3] * scan.frame.scale + scan.frame.centre
        places[:, 0] -= np.where(places[:, 0] > 1.5, 3, 0)
        assert (places * scan.points[:, 3:]).sum(axis=1) == pytest.approx(0.5, abs=1e-5)
        assert (read_scan(tmp_path / "boxes.stl", 500).points == scan.points).all()


def test_a_hole_inside_a_mesh_stays_one(tmp_path):
    hole = trimesh.creation.box((0.5, 0.5, 0.5))
    hole.invert()
    trimesh.util.concatenate([trimesh.creation.box(), hole]).export(tmp_path / "hollow.stl")
    points = read_scan(tmp_path / "hollow.stl", 500).points
    outer = np.abs(points[:, :3]).max(axis=1) > 0.75
    assert 0 < (~outer).sum() < 250
    assert (((points[:, :3] * points[:, 3:]).sum(axis=1) > 0) == outer).all()


@pytest.mark.filterwarnings("error")
def test_what_is_no_scan_is_told(tmp_path):
    for name, text, message in (
        ("a.xyz", "1 2 3 4\n" * 20, r"shape \(20, 4\)"),
        ("b.txt", "1 2 3 200 100 50\n" * 20, "no unit normals"),
        ("c.csv", "x,y,z\n1,2,three\n", "three"),
        ("d.xyz", "", "no points"),
        ("e.stl", "solid nothing", "malformed_mesh"),
        ("e.obj", "v 1 1 1\n" * 3 + "f 1 2 3\n", "malformed_mesh.* all points are one"),
        ("f.step", "ISO-10303-21; nothing", "malformed_step"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(RejectError, match=message) as found:
            read_scan(tmp_path / name, NUM_POINTS)
        assert name in str(found.value)
    coloured = np.random.default_rng(0).random((20, 6)) * (1, 1, 1, 255, 255, 255)
    np.save(tmp_path / "g.npy", coloured)
    np.savez(tmp_path / "h.npz", points=coloured[:, :3], normals=coloured[:, 3:])
    np.savez(tmp_path / "i.npz", coloured)
    for source in (coloured, *(tmp_path / name for name in ("g.npy", "h.npz", "i.npz"))):
        with pytest.raises(RejectError, match="no unit normals"):
            read_scan(source, NUM_POINTS)
    for source in (coloured[0], coloured[None], np.array(["a"] * 30)):
        with pytest.raises(RejectError, match="shape"):
            read_scan(source, NUM_POINTS)
    for name, message in (("part.doc", "one of .npy"), ("no.npy", "does not exist")):
        with pytest.raises(UserError, match=message):
            read_scan(tmp_path / name, NUM_POINTS)


def test_a_mesh_that_is_too_large_is_told(tmp_path, monkeypatch):
    trimesh.creation.box().export(tmp_path / "box.stl")
    monkeypatch.setattr("pipeline.cad.exchange.files.MAX_MESH_BYTES", 500)
    with pytest.raises(RejectError, match=r"unreadable_file.*box.stl is larger than"):
        read_scan(tmp_path / "box.stl", NUM_POINTS)


@pytest.mark.parametrize(
    "text",
    ["1 2 3\n4 5 6\n", "1 2 3 # c\n4 5 6//\n", "\ufeff1 2 3\n4 5 6", "\ufeffx,y,z\r\n1,2,3\r\n4,5,6\r\n",
     "\n# a scan\n\nx y z\n\n1 2 3\n4 5 6\n", "//X Y Z\n2\n1 2 3\n4 5 6\n"],
)  # fmt: skip
def test_headings_and_comments_cost_no_point(text):
    assert read_text(text.encode(), "x").tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("text", ["", "\ufeff\n", "# x\n// y\n", "x y z\n# none\n", "0\n"])
def test_a_text_without_points_is_told(text):
    with warnings.catch_warnings(), pytest.raises(RejectError, match="no points"):
        warnings.simplefilter("error")
        read_text(text.encode(), "x")


def test_a_scan_in_millimetres_is_noticed(mesh):
    points = sample_surface(mesh, 500, generator(1))
    for scale, notes in ((0.05, 0), (50.0, 1)):
        said = []
        read_inputs("", points * [scale, scale, scale, 1, 1, 1], [], 256, said.append)
        assert sum("m long: its numbers are taken as m" in line for line in said) == notes
