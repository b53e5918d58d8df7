"""Files of strangers that are made to do harm, tried: nothing runs, nothing is written, what is wrong is said."""

import io
import json
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.cad.exchange.files import read_program, read_triangles
from pipeline.cad.exchange.scans import read_scan
from pipeline.cad.exchange.scripts import read_script
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.omnicad.published import read_split
from pipeline.cad.parts import synthesis
from pipeline.cad.solids import clouds
from pipeline.cad.solids.rendering import read_image
from pipeline.model.checkpoint_folder import CheckpointConfig
from pipeline.report.charts import line_chart
from pipeline.runtime.errors import RejectError, UserError
from pipeline.settings.params import Sections
from pipeline.shards.index import INDEX
from pipeline.shards.manifest import Manifest
from pipeline.shards.pictures import decode_png
from pipeline.shards.reader import CorpusReader
from pipeline.shards.seen import SEEN, read_seen
from pipeline.shards.stream import stream
from pipeline.shards.tars import decode_array, scan
from tests.unit.hostile import Bomb, bounded
from tests.unit.readers import shards

REFUSED = (UserError, RejectError)
PROGRAM = synthesis.make_part(0, 0, ("washer",)).program


# -- pickles ----------------------------------------------------------------------------------------------------------


def pickled_array(mark):
    buffer = io.BytesIO()
    np.save(buffer, np.array([[Bomb(mark)] * 3] * 20, object), allow_pickle=True)
    return buffer.getvalue()


def test_no_array_is_unpickled(tmp_path, mark):
    data = pickled_array(mark)
    archive = io.BytesIO()
    np.savez(archive, points=np.array([[Bomb(mark)] * 3] * 20, object))
    for name, content in (("x.npy", data), ("x.npz", archive.getvalue()), ("y.npy", pickle.dumps(Bomb(mark)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RejectError, match="bad_points"):
            read_scan(tmp_path / name, 64)
    with pytest.raises(UserError, match="objects"):
        decode_array(data, "member")
    (tmp_path / SEEN).write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_seen(tmp_path)


def test_no_index_is_unpickled(tmp_path, mark):
    import hashlib

    tar, _, manifest = shards()
    data = pickled_array(mark)
    document = {**json.loads(manifest), "index_sha256": hashlib.sha256(data).hexdigest()}
    contents = {"train-000000.tar": tar, INDEX: data, "manifest.json": json.dumps(document).encode()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="objects"):
        CorpusReader(tmp_path)


# -- archives ---------------------------------------------------------------------------------------------------------


def test_a_zip_writes_nothing_and_follows_no_link(tmp_path):
    """It is read in place: names that lead elsewhere are names, and a link in it is a short file."""
    link = zipfile.ZipInfo("json/0000/00000002_00001.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    ids = ["0000/00000001_00001", "0000/00000002_00001", "../../escaped_00001"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("json/0000/00000001_00001.json", documents.dumps(PROGRAM))
        archive.writestr(link, "/etc/passwd")
        archive.writestr("json/../../escaped_00001.json", "{}")
        archive.writestr("/etc/absolute.json", "{}")
        archive.writestr("txt/0000.json", json.dumps([{"id": each, "text caption": "a part"} for each in ids]))
    before = sorted(tmp_path.rglob("*"))
    dataset = Dataset(tmp_path / "x.zip")
    listing = dataset.listing()
    assert [entry.id for entry in listing] == ids[:2]
    assert any("escaped" in reject.detail and reject.reason == "bad_id" for reject in listing.rejects)
    with pytest.raises(RejectError, match="malformed_json"):
        documents.loads(dataset.read("json/0000/00000002_00001.json"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_users_own_folder_may_be_links_and_a_device_or_pipe_is_not_opened(tmp_path):
    """People link their data, so links are followed in a folder; what could block or never end is refused."""
    (tmp_path / "x/json/0000").mkdir(parents=True)
    (tmp_path / "x/txt").mkdir()
    (tmp_path / "x/json/0000/00000001_00001.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "x/json/0000/00000002_00001.json")
    dataset = Dataset(tmp_path / "x")
    for number in (1, 2):
        with pytest.raises(RejectError, match="not a file"), bounded(seconds=5):
            dataset.read(f"json/0000/0000000{number}_00001.json")


def tar_of(path, **changes):
    member = tarfile.TarInfo("00000001_00001.json")
    for name, value in changes.items():
        setattr(member, name, value)
    with tarfile.open(path, "w") as tar:
        tar.addfile(member, io.BytesIO(b""))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "../../etc/passwd"},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.DIRTYPE},
    ],
)
def test_a_tar_with_links_or_devices_is_refused(tmp_path, changes):
    with pytest.raises(UserError, match="a link, a folder or a device"):
        scan(tar_of(tmp_path / "x.tar", **changes))


def test_a_tars_names_are_keys_and_no_paths(tmp_path):
    assert list(scan(tar_of(tmp_path / "x.tar", name="../../evil.json"))) == [""]
    assert not list(tmp_path.parent.glob("evil*"))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../train-000000.tar", "pipe:touch x", "https://a/train-000000.tar", "s3://a/b.tar", "", 3]
)
def test_a_manifest_names_no_file_elsewhere(tmp_path, name):
    document = json.loads(shards()[2])
    document["shards"][0]["name"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="no file of this folder"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "urls",
    [
        "pipe:touch {}",
        "{{pipe:,}}touch {}",
        "x.tar::pipe:touch {}",
        ["pipe:touch {}"],
        " pipe:touch {}",
        "gs://a/{}",
        "-",
    ],
)
def test_a_url_starts_no_program(tmp_path, mark, urls):
    given = [each.format(mark) for each in urls] if isinstance(urls, list) else urls.format(mark)
    with pytest.raises(UserError, match="files, http: and https: only"):
        next(stream(given, {}))


# -- claims -----------------------------------------------------------------------------------------------------------

NPY = b"\x93NUMPY"


def header(text, version=1):
    return NPY + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3)}\n"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693952, 8)}\n"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3)}\n"),
        header("{'descr': '|S2147483647', 'fortran_order': False, 'shape': (3, 3)}\n"),
        header("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,)}\n"),
        header("-" * 9000 + "1\n"),
        header("[" * 9000 + "\n"),
        header("{'descr': '<f8'" + " " * 60_000 + "}\n"),
        NPY + b"\2\0" + struct.pack("<I", 0xFFFFFFFF) + b"{",
        NPY + b"\3\0" + struct.pack("<I", 0xFFFFFFF0) + b"{",
        NPY + b"\xff\xff",
    ],
)
def test_an_array_that_claims_what_it_has_not_takes_no_memory(data):
    with bounded(seconds=5, memory=128 << 20):
        with pytest.raises(UserError):
            decode_array(data, "x")
        with pytest.raises(RejectError, match="bad_points"):
            clouds.read_array(data, "x.npy")


def test_an_npz_is_unpacked_to_a_bound(monkeypatch):
    monkeypatch.setattr(clouds, "MOST_BYTES", 1 << 20)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=np.zeros((1_000_000, 3)))
    assert len(buffer.getvalue()) < 50_000
    with bounded(seconds=5, memory=16 << 20), pytest.raises(RejectError, match="more than 1 MiB"):
        clouds.read_array(buffer.getvalue(), "x.npz")


def png(width, height, rows=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000), (0x7FFFFFFF, 0x7FFFFFFF), (1 << 28, 1)])
def test_pictures_that_would_fill_the_memory_are_not_unpacked(size):
    with bounded(seconds=5, memory=128 << 20):
        with pytest.raises(RejectError, match="bad_image"):
            read_image(png(*size), "x.png", 32)
        with pytest.raises(UserError, match="stored view"):
            decode_png(png(*size))


def test_no_picture_starts_a_program(tmp_path, mark, monkeypatch):
    """Pillow has Ghostscript draw EPS, whatever the file is called."""
    fake = tmp_path / "bin/gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with Image.open(io.BytesIO(eps)) as image, pytest.raises(OSError, match=r"."):
        image.load()
    assert mark.exists(), "the trap works"
    mark.unlink()
    with pytest.raises(RejectError, match="bad_image"):
        read_image(eps, "x.png", 32)
    with pytest.raises(UserError, match="stored view"):
        decode_png(eps)


# -- text -------------------------------------------------------------------------------------------------------------


def split_of(data):
    try:
        list(read_split(data))
    except (ValueError, RecursionError) as error:
        raise UserError(str(error)) from error


def in_file(name, read):
    def from_data(data, folder):
        (folder / name).write_bytes(data)
        return read(folder if read == Manifest.read else folder / name)

    return from_data


JSON_READERS = {
    "model": lambda data, _: documents.loads(data),
    "split": lambda data, _: split_of(data),
    "tokens": in_file("x.tokens", read_program),
    "manifest": in_file("manifest.json", Manifest.read),
    "checkpoint": in_file("config.json", lambda path: CheckpointConfig.read(path.parent)),
}


@pytest.mark.parametrize("name", JSON_READERS)
@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"9" * 1_000_000,
        b'{"train": 3, "bits": 1e999, "scale": ' + b"9" * 400 + b', "centre": [1e400, 0, 0]}',
        b"\xff\xfe[",
        b'"\\ud800"',
    ],
    ids=["lists", "objects", "digits", "infinite", "utf-16", "half a character"],
)
def test_json_that_is_deep_or_endless_is_refused(tmp_path, name, data):
    with bounded(seconds=5, memory=256 << 20), pytest.raises(REFUSED):
        JSON_READERS[name](data, tmp_path)


def test_a_sketch_that_many_steps_name_is_not_read_for_each():
    document = documents.to_document(PROGRAM)
    (sketch,) = (entity for entity in document["entities"].values() if entity["type"] == "Sketch")
    (profile,) = sketch["profiles"].values()
    hole = {"center_point": {"x": 0, "y": 0, "z": 0}, "radius": 1.0, "type": "Circle3D"}
    profile["loops"] += [{"profile_curves": [hole]}] * 5000
    document["sequence"] += [document["sequence"][-1]] * 100_000
    with bounded(seconds=10), pytest.raises(RejectError, match="more than 100,000 curves"):
        documents.loads(json.dumps(document))


def test_a_script_whose_message_would_be_endless_is_refused():
    text = "import cadquery as cq\nx = (1, 2)\n" + "x = (x, x)\n" * 60 + "y = x + 1\npart = cq.Workplane(x)\n"
    with bounded(seconds=5), pytest.raises(RejectError, match="malformed_script"):
        read_script(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: &k0 [1, 1]\n" + "".join(f"b{i}: &k{i} [*k{i - 1}, *k{i - 1}]\n" for i in range(1, 60)),
        "a: !!python/object/apply:pathlib.Path.touch ['{mark}']\n",
        "a: !!python/object/new:os.system ['touch {mark}']\n",
        "[" * 5000,
        "a: " * 5000,
        "- " * 16_000,
        "? " * 16_000,
        "x" * 100_000,
        "a: \x00",
    ],
    ids=["laughs", "apply", "new", "brackets", "keys", "items", "questions", "long", "nul"],
)
def test_params_make_no_object_and_no_end_of_anchors(tmp_path, mark, text):
    (tmp_path / "params.yaml").write_text(text.replace("{mark}", str(mark)))
    with bounded(), pytest.raises(UserError):
        Sections.load(tmp_path / "params.yaml")


def test_names_are_text_in_a_chart():
    chart = line_chart({"loss": [(0, 1.0), (1, 0.5)]}, "loss", [(0, "<script>alert(1)</script>"), (1, "b")])
    assert "<script" not in chart
    assert "alert(1)" in chart


CORNERS = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
PLY = "ply\nformat ascii 1.0\nelement vertex 3\n" + "".join(f"property float {axis}\n" for axis in "xyz")
PLY += "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 "


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.obj", f"{CORNERS}f 1 2 9\n"),
        ("x.obj", f"{CORNERS}f 1 2 99999999999999999999\n"),
        ("x.obj", "v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n"),
        ("x.obj", f"{CORNERS}vn a b c\nvn 1\nvn 1\nvn 1\n"),
        ("x.ply", f"{PLY}9\n"),
        ("x.ply", f"{PLY}-1\n"),
    ],
)
def test_triangles_of_vertices_that_are_not_there_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(RejectError, match=r"malformed_mesh|bad_points"):
        read_scan(tmp_path / name, 64)


def test_meshes_with_pictures_or_claims_are_read_without_them(tmp_path):
    """Sizes of accessors without data, and pictures of any kind inside a GLB."""
    document = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 4}]}],
        "accessors": [{"componentType": 5126, "count": 1 << 40, "type": "VEC3"}],
    }  # fmt: skip
    for count in (1 << 40, 1 << 28):
        document["accessors"][0]["count"] = count
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % 4)
        head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A)
        (tmp_path / "x.glb").write_bytes(head + text)
        with bounded(memory=512 << 20), pytest.raises(RejectError, match="malformed_mesh"):
            read_triangles(tmp_path / "x.glb")
