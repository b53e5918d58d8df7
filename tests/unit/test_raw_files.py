"""Files of a dataset: links, zips of all kinds, and workers that look at nothing but their own files."""

import io
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cad.language.program import Frame
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.omnicad.raw_files import NoDatasetError
from pipeline.cad.omnicad.zip_directory import Member, read_directory
from pipeline.cad.parts import synthesis
from pipeline.execution.sandbox import Sandbox
from pipeline.geometry.build import draw_task
from pipeline.geometry.draw import draw
from pipeline.geometry.settings import Geometry
from pipeline.runtime.errors import RejectError, UserError
from tests.unit.conftest import listed
from tests.unit.sandboxed import watched_draw

PROGRAM = synthesis.make_part(0, 0, ("washer",)).program
IDS = [f"{folder:04d}/{number:08d}_00001" for folder in range(2) for number in range(folder * 3, folder * 3 + 3)]


def make(folder: Path) -> Path:
    """Six models in two folders, each with a cloud."""
    rng = np.random.default_rng(0)
    for entry in IDS:
        for kind, suffix in (("json", "json"), ("pcd", "npy")):
            (folder / kind / entry).parent.mkdir(parents=True, exist_ok=True)
            path = folder / kind / f"{entry}.{suffix}"
            if kind == "json":
                path.write_text(documents.dumps(PROGRAM))
            else:
                np.save(path, rng.normal(size=(300, 3)))
    (folder / "txt").mkdir()
    for number in range(2):
        rows = [{"id": entry, "text caption": f"a washer {entry}"} for entry in IDS if entry.startswith(f"000{number}")]
        (folder / f"txt/000{number}.json").write_text(json.dumps(rows))
    return folder


def pack(folder: Path, path: Path, rename=lambda name: name, method=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.writestr(rename(file.relative_to(folder).as_posix()), file.read_bytes())
    return path


def contents(dataset: Dataset) -> list[tuple]:
    """Everything that is read of a dataset."""
    entries, rejects = listed(dataset)
    assert rejects == []
    return [
        (
            entry,
            dataset.read(f"json/{entry.id}.json"),
            dataset.point_file(entry.id).read(),
            dataset.image_files(entry.id),
        )
        for entry in entries
    ]


def whole_link(tmp, made):
    (tmp / "link").symlink_to(made)
    return tmp / "link"


def one_down(tmp, made):
    (tmp / "raw").mkdir()
    (tmp / "raw/Omni-CAD").symlink_to(made)
    (tmp / "raw/README.md").write_text("what belongs here")
    return tmp / "raw"


def linked_parts(tmp, made):
    (tmp / "linked").mkdir()
    for name in ("json", "txt", "pcd"):
        (tmp / "linked" / name).symlink_to(made / name)
    return tmp / "linked"


def linked_folders_and_files(tmp, made):
    for kind in ("json", "pcd"):
        (tmp / "deep" / kind).mkdir(parents=True)
        (tmp / "deep" / kind / "0000").symlink_to(made / kind / "0000")
        (tmp / "deep" / kind / "0001").mkdir()
        for file in (made / kind / "0001").iterdir():
            (tmp / "deep" / kind / "0001" / file.name).symlink_to(file)
    (tmp / "deep/txt").symlink_to(made / "txt")
    return tmp / "deep"


def zipped(tmp, made):
    return pack(made, tmp / "Omni-CAD.zip")


def zip_one_down(tmp, made):
    (tmp / "raw").mkdir()
    pack(made, tmp / "raw/Omni-CAD.zip", lambda name: f"Omni-CAD/{name}", zipfile.ZIP_STORED)
    return tmp / "raw"


def zip_from_a_mac(tmp, made):
    for file in list((made / "json/0000").iterdir()):
        (made / "json/0000" / f"._{file.name}").write_bytes(b"\0\5\26\7")
    pack(made, tmp / "mac.zip")
    with zipfile.ZipFile(tmp / "mac.zip", "a") as archive:
        archive.writestr("__MACOSX/json/0000/._00000000_00001.json", b"\0\5\26\7")
        archive.writestr("__MACOSX/txt/._0000.json", b"\0\5\26\7")
        archive.writestr(".DS_Store", b"")
    return tmp / "mac.zip"


def zip_from_windows(tmp, made):
    return pack(made, tmp / "windows.zip", lambda name: name.replace("/", "\\"))


def zip64(tmp, made):
    with zipfile.ZipFile(tmp / "64.zip", "w", zipfile.ZIP_LZMA) as archive:
        for file in sorted(p for p in made.rglob("*") if p.is_file()):
            with archive.open(file.relative_to(made).as_posix(), "w", force_zip64=True) as out:
                out.write(file.read_bytes())
    return tmp / "64.zip"


def zip_behind_something(tmp, made):
    path = pack(made, tmp / "own.zip")
    path.write_bytes(b"#!/bin/sh\n" * 50 + path.read_bytes())
    return path


@pytest.mark.parametrize(
    "arrange",
    [
        whole_link,
        one_down,
        linked_parts,
        linked_folders_and_files,
        zipped,
        zip_one_down,
        zip_from_a_mac,
        zip_from_windows,
        zip64,
        zip_behind_something,
    ],
)
def test_however_a_dataset_lies_it_is_the_same(tmp_path, arrange):
    made = make(tmp_path / "made")
    expected = contents(Dataset(made))
    assert [entry.id for entry, *_ in expected] == IDS
    dataset = Dataset(arrange(tmp_path, made))
    assert contents(dataset) == expected
    assert dataset.has_own_files


def test_a_dataset_of_programs_alone_has_no_files_of_its_own(tmp_path):
    made = make(tmp_path / "made")
    shutil.rmtree(made / "pcd")
    for path in (made, zipped(tmp_path, made)):
        assert not Dataset(path).has_own_files


@pytest.mark.parametrize("arrange", [zipped, zip_from_a_mac, zip64, zip_behind_something, "many files"])
@pytest.mark.slow
def test_a_zips_directory_is_read_as_python_reads_it(tmp_path, arrange):
    if arrange == "many files":  # more than the first format of zips can count
        path = tmp_path / "many.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = b"a comment"
            for number in range(0x10001):
                archive.writestr(f"json/\N{LATIN SMALL LETTER E WITH ACUTE}/{number}.json", b"")
    else:
        path = arrange(tmp_path, make(tmp_path / "made"))
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        expected = [
            (each.filename, Member(each.header_offset, each.compress_size, each.file_size, each.CRC,
                                   each.compress_type, each.flag_bits))
            for each in archive.infolist()
        ]  # fmt: skip
        assert list(read_directory(file)) == expected


def test_captions_with_a_byte_order_mark_and_other_line_ends(tmp_path):
    made = make(tmp_path / "made")
    for path in (made / "txt").iterdir():
        text = json.dumps(json.loads(path.read_text()), indent=1)
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert [entry.id for entry in Dataset(made).listing()] == IDS


def test_links_back_up_end(tmp_path):
    made = make(tmp_path / "made")
    (made / "json/up").symlink_to(made)
    (made / "json/0000/up").symlink_to(made / "json")
    (made / "json/self").symlink_to("self")
    (made / "raw_train_test_split.json").write_text("{}")
    entries, rejects = listed(Dataset(made))
    assert [entry.id for entry in entries] == IDS
    assert {(reject.id, reject.reason) for reject in rejects} == {
        ("json/0000/up/", "misplaced"),
        ("json/up/json/", "misplaced"),
        ("json/up/pcd/", "misplaced"),
        ("json/up/txt/", "misplaced"),
        ("up/raw_train_test_split", "caption_missing"),
    }


def test_models_elsewhere_in_the_folder_or_zip_are_named(tmp_path):
    made = make(tmp_path / "made")
    shutil.copytree(made / "json/0000", made / "json/0001/inner")
    shutil.copy(made / "json/0000/00000000_00001.json", made / "json/loose.json")
    shutil.copy(made / "json/0000/00000000_00001.json", made / "json/0000/LOUD.JSON")
    for path in (made, pack(made, tmp_path / "x.zip")):
        entries, rejects = listed(Dataset(path))
        assert [entry.id for entry in entries] == IDS
        misplaced = {"json/0001/inner/", "json/loose.json", "json/0000/LOUD.JSON"}
        assert {(r.id, r.reason) for r in rejects} == {(name, "misplaced") for name in misplaced}


def test_links_that_lead_nowhere_are_named(tmp_path):
    made = make(tmp_path / "made")
    gone = tmp_path / "gone"
    (made / "json" / f"{IDS[0]}.json").unlink()
    (made / "json" / f"{IDS[0]}.json").symlink_to(gone)
    (made / "pcd" / f"{IDS[1]}.npy").unlink()
    (made / "pcd" / f"{IDS[1]}.npy").symlink_to(gone)
    shutil.rmtree(made / "pcd/0001")
    (made / "pcd/0001").symlink_to(gone)
    dataset = Dataset(made)
    assert [entry.id for entry in dataset.listing()] == IDS
    with pytest.raises(RejectError, match=r"json/0000/00000000_00001.json: .* leads nowhere"):
        dataset.read(f"json/{IDS[0]}.json")
    for entry in (IDS[1], IDS[5]):  # not taken for a model without a cloud
        with pytest.raises(RejectError, match=f"pcd/{entry}.npy"):
            dataset.point_file(entry).read()
    assert dataset.point_file(IDS[2]).read()
    (made / "img").symlink_to(gone)
    with pytest.raises(UserError, match=f"img is a link to {gone}, which is not there"):
        Dataset(made)
    (tmp_path / "link").symlink_to(gone)
    with pytest.raises(NoDatasetError, match=f"link is a link to {gone}"):
        Dataset(tmp_path / "link")


def test_a_folder_with_several_datasets_or_none(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/README.md").write_text("")
    for path in (tmp_path / "raw", tmp_path / "raw/README.md"):
        with pytest.raises(NoDatasetError):
            Dataset(path)
    made = make(tmp_path / "raw/Omni-CAD")
    pack(made, tmp_path / "raw/Omni-CAD.zip")
    assert Dataset(tmp_path / "raw").root == made  # unpacked, and the zip kept
    make(tmp_path / "raw/Other")
    with pytest.raises(UserError, match="Omni-CAD and Other: name one"):
        Dataset(tmp_path / "raw")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_costs_what_is_damaged(tmp_path, method):
    path = pack(make(tmp_path / "made"), tmp_path / "x.zip", method=method)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"json/{IDS[0]}.json")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 0xFF
    path.write_bytes(data)
    dataset = Dataset(path)
    with pytest.raises(RejectError, match=f"unreadable_file: json/{IDS[0]}.json"):
        dataset.read(f"json/{IDS[0]}.json")
    assert dataset.read(f"json/{IDS[1]}.json") == documents.dumps(PROGRAM).encode()


@pytest.mark.slow
def test_a_zip_cannot_claim_less_than_it_unpacks_to(tmp_path):
    path = tmp_path / "bomb.zip"
    name = f"json/{IDS[0]}.json"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b" " * (200 << 20))
        archive.writestr("txt/0000.json", "[]")
    with pytest.raises(RejectError, match="larger than 64 MiB"):
        Dataset(path).read(name)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2", 0, data.rindex(name.encode()))
    struct.pack_into("<I", data, at + 24, 1000)  # the directory's size of the file
    path.write_bytes(data)
    with pytest.raises(RejectError, match="CRC"):
        Dataset(path).read(name)


def test_an_encrypted_file_is_rejected(tmp_path):
    path = pack(make(tmp_path / "made"), tmp_path / "x.zip")
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(RejectError, match="encrypted"):
        Dataset(path).read(f"json/{IDS[0]}.json")


def test_other_contents_are_another_version(tmp_path):
    made = make(tmp_path / "made")

    def version(path=made):
        dataset = Dataset(path)
        return dataset.version(dataset.listing())

    versions = [version(), version()]
    assert len(set(versions)) == 1
    rows = json.loads((made / "txt/0000.json").read_text())
    (made / "txt/0000.json").write_text(json.dumps([{**row, "text caption": "another"} for row in rows]))
    versions.append(version())
    for kind in ("json", "pcd"):
        path = next((made / kind / "0001").iterdir())
        path.write_bytes(path.read_bytes() + b" ")
        versions.append(version())
    (made / f"pcd/{IDS[0]}.npy").unlink()
    versions += [version(), version(pack(made, tmp_path / "x.zip"))]
    (made / f"json/{IDS[0]}.json").write_text(documents.dumps(PROGRAM) + "\n")
    versions.append(version(pack(made, tmp_path / "x.zip")))
    assert len(set(versions)) == len(versions) - 1


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.slow
def test_a_worker_opens_its_own_files_alone(tmp_path, kind):
    made = make(tmp_path / "made")
    for number in range(20000):
        (made / f"json/0000/9{number:07d}_00001.json").touch()
    path = made if kind == "folder" else pack(made, tmp_path / "Omni-CAD.zip")
    dataset = Dataset(path)
    frame = Frame((0.0, 0.0, 0.0), 1.0)
    sample = {"id": IDS[4], "program": documents.to_document(PROGRAM), "frame": {"centre": frame.centre, "scale": 1.0}}
    task = draw_task(dataset, sample, Geometry(num_points=64, num_views=1, image_size=32), 0)
    if kind == "zip":  # its directory is at the end: a worker that wants it finds none
        os.truncate(path, task.own_points.member.offset + task.own_points.member.packed + 200)
        with pytest.raises(UserError):
            Dataset(path)
    with Sandbox(watched_draw, 1, 60, 4096) as sandbox:
        ((members, seen),) = sandbox.map([task])
    assert members == ["points.npy", "view0.png"]
    expected = made / f"pcd/{IDS[4]}.npy" if kind == "folder" else path
    assert [event for event in seen if str(tmp_path) in event[1]] == [("open", str(expected))]


def test_views_are_known_by_their_number(tmp_path):
    made = make(tmp_path / "made")
    (made / "img/0000").mkdir(parents=True)
    for view in (0, 1, 3, 2):
        Image.new("L", (32, 32), 60 * view).save(made / f"img/{IDS[0]}_{view:03d}.png")
    sample = {"id": IDS[0], "program": documents.to_document(PROGRAM), "frame": {"centre": (0, 0, 0), "scale": 1.0}}

    def shown(wanted):
        task = draw_task(Dataset(made), sample, Geometry(num_points=64, num_views=wanted, image_size=32), 0)
        members = draw(task)
        pictures = [Image.open(io.BytesIO(members[f"view{view}.png"])) for view in range(wanted)]
        return [picture.getpixel((16, 16)) for picture in pictures]

    assert shown(4) == [0, 60, 120, 180]
    (made / f"img/{IDS[0]}_001.png").unlink()
    assert shown(1) == [0]
    for wanted in (3, 4):
        message = rf"bad_image: img/{IDS[0]}_001.png is missing; {wanted - 1} of {wanted} views"
        with pytest.raises(RejectError, match=message):
            shown(wanted)
