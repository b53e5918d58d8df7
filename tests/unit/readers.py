"""Every reader of foreign bytes that runs in Python, with valid files to begin from; for ``test_fuzz.py``.

A reader gets bytes and an empty folder, and does what the pipeline does with such a file.
"""

import contextlib
import functools
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save

from pipeline.cad.exchange.files import read_program, read_surfaces, read_triangles
from pipeline.cad.exchange.formats import Library
from pipeline.cad.exchange.scans import read_scan
from pipeline.cad.exchange.scripts import read_script, script
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.omnicad.published import read_split
from pipeline.cad.parts import synthesis
from pipeline.cad.solids.rendering import read_image
from pipeline.encoders.tensors import read_tensors
from pipeline.model.checkpoint_folder import CheckpointConfig
from pipeline.planning.params import Params
from pipeline.runtime.errors import RejectError, UserError
from pipeline.settings.resolved import read_models
from pipeline.shards.index import INDEX, write_index
from pipeline.shards.manifest import Manifest
from pipeline.shards.pictures import decode_png
from pipeline.shards.reader import CorpusReader
from pipeline.shards.seen import SEEN, read_seen
from pipeline.shards.tars import TarFile, decode_array, scan
from pipeline.shards.writer import encode_array, encode_json, write_shard
from tests.unit.cadquery_scripts import SCRIPTS

ROOT = Path(__file__).resolve().parents[2]
BOX = trimesh.creation.box((1, 2, 3))
TOKENS = '{"bits": 8, "centre": [0.0, 0.0, 0.0], "scale": 0.05}\n'  # what follows is made by hand: a disc


@dataclass(frozen=True)
class Reader:
    """How bytes of one kind are read.

    Attributes:
        originals: valid files.
        read: takes bytes and an empty folder.
        documents: the same as values, where they are JSON.
    """

    originals: tuple[bytes, ...]
    read: Callable[[bytes, Path], object]
    documents: tuple[object, ...] = ()


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A reader that takes a file of some name."""

    def from_file(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return from_file


# -- valid files ------------------------------------------------------------------------------------------------------


@functools.cache
def programs() -> tuple:
    return tuple(synthesis.make_part(0, number, (family,)).program for number, family in enumerate(("washer", "plate")))


def json_documents() -> tuple[object, ...]:
    return tuple(documents.to_document(program) for program in programs())


def arrays() -> tuple[bytes, ...]:
    rng = np.random.default_rng(0)
    made = [rng.normal(size=(20, 3)), rng.normal(size=(20, 6)).astype(np.float32), np.arange(48).reshape(16, 3)]
    return tuple(encode_array(each) for each in made)


def npz() -> bytes:
    buffer = io.BytesIO()
    points = np.random.default_rng(0).normal(size=(20, 3))
    np.savez_compressed(buffer, points=points, normals=points / np.linalg.norm(points, axis=1, keepdims=True))
    return buffer.getvalue()


def pictures() -> tuple[bytes, ...]:
    made = []
    for kind, mode in (("png", "L"), ("png", "RGBA"), ("png", "P"), ("jpeg", "L"), ("webp", "RGB"), ("bmp", "RGB")):
        buffer = io.BytesIO()
        Image.new(mode, (24, 24), 7).save(buffer, kind)
        made.append(buffer.getvalue())
    return tuple(made)


def meshes(suffix: str) -> tuple[bytes, ...]:
    options = [{}, {"encoding": "ascii"}] if suffix == "ply" else [{}]
    made = [BOX.export(file_type=suffix, **each) for each in options]
    if suffix == "stl":
        made.append(BOX.export(file_type="stl_ascii"))
    return tuple(each.encode() if isinstance(each, str) else each for each in made)


def torch_file() -> bytes:
    buffer = io.BytesIO()
    weights = {"encoder.query": torch.ones(2, 3), "encoder.bias": torch.zeros(3, dtype=torch.float16)}
    torch.save({"state_dict": weights, "epoch": 3, "hyper_parameters": {"a": [1, (2.5, "b")]}}, buffer)
    return buffer.getvalue()


def dataset_zip() -> bytes:
    buffer = io.BytesIO()
    rows = [{"id": "0000/00000001_00001", "text caption": "a washer"}]
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("json/0000/00000001_00001.json", documents.dumps(programs()[0]))
        archive.writestr("txt/0000.json", json.dumps(rows))
        archive.writestr("pcd/0000/00000001_00001.npy", arrays()[0], zipfile.ZIP_STORED)
        archive.writestr("img/0000/00000001_00001_000.png", pictures()[0], zipfile.ZIP_BZIP2)
        archive.writestr(
            "raw_train_test_split.json", json.dumps({"train": ["0000/00000001"], "test": []}), zipfile.ZIP_LZMA
        )
    return buffer.getvalue()


@functools.cache
def shards() -> tuple[bytes, bytes, bytes]:
    """A tar of a corpus, its index and its manifest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = {"id": "0000/00000001_00001", "caption": "a plate", "statistics": {"num_extrudes": 1, "num_curves": 4}}
        members = {"json": encode_json(sample), "program.npy": encode_array(np.arange(9)), "x.npy": arrays()[0]}
        shard = write_shard(folder / "train-000000.tar", [(f"0000{i:08d}_00001", members) for i in range(3)])
        fields = {"x.npy": {"shape": [20, 3], "dtype": "float64"}}
        Manifest("corpus", fields, {"counts": {"samples": 3}}, (shard,), write_index(folder, [shard])).write(folder)
        return tuple((folder / each).read_bytes() for each in ("train-000000.tar", INDEX, "manifest.json"))


# -- reading ----------------------------------------------------------------------------------------------------------


def _dataset(path: Path) -> None:
    dataset = Dataset(path)
    listing = dataset.listing()
    for entry in listing:
        for file in (dataset._files.find(f"json/{entry.id}.json"), *dataset.own_files(entry.id)):
            _quiet(file.read)
    list(listing.rejects)
    dataset.version(listing)
    list(dataset.published_split())


def _quiet(read: Callable[[], object]) -> None:
    with contextlib.suppress(RejectError):
        read()


def _captions(data: bytes, folder: Path) -> None:
    for part in ("json/0000", "txt"):
        (folder / part).mkdir(parents=True)
    (folder / "json/0000/00000001_00001.json").write_text("{}")
    (folder / "txt/0000.json").write_bytes(data)
    _dataset(folder)


def _scan_tar(path: Path) -> None:
    tar = TarFile(path)
    for members in scan(path).values():
        for place in members.values():
            tar.read(place)


def _corpus(data: bytes, folder: Path, replaced: str) -> None:
    """A folder of shards with one file replaced, whose digests fit: all that readers ask of it."""
    tar, index, manifest = shards()
    files = {"train-000000.tar": tar, INDEX: index, "manifest.json": manifest, replaced: data}
    if replaced != "manifest.json":
        document = json.loads(manifest)
        document["index_sha256"] = hashlib.sha256(files[INDEX]).hexdigest()
        document["shards"][0]["bytes"] = len(files["train-000000.tar"])
        files["manifest.json"] = json.dumps(document).encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    reader = CorpusReader(folder)
    for row in reader.rows("train").tolist():
        reader.key(row), reader.id(row), reader.shard(row)
        for read in (reader.caption, reader.json):
            read(row)
        for member in reader.manifest.fields:
            reader.array(row, member)
            reader.array(row, member, [0])
    reader.captions(reader.rows())
    reader.find(["000000000001_00001"])


def _tokens() -> tuple[bytes, ...]:
    from pipeline.cad.exchange.files import tokens_text
    from pipeline.cad.language.codec import Codec
    from pipeline.cad.language.program import Frame

    frame = Frame((0.0, 0.0, 0.0), 0.05)
    return tuple(tokens_text(Codec(8).encode(each.normalised(frame), 1.0), 8, frame).encode() for each in programs())


def _config() -> dict:
    from pipeline.model.settings import ModelParams

    features = {"image": {"shape": [2, 4, 16], "details": {"encoder": {"sha256": "x"}}}}
    model = ModelParams.model_validate(YAML(typ="safe").load((ROOT / "params.yaml").read_text())["model"])
    return {
        "format": 2, "bits": 8, "seed": 0, "model": model.model_dump(mode="json"), "dtype": "float32",
        "quantization": "none", "features": features, "combinations": ["text"], "llm_sha256": "x",
    }  # fmt: skip


def _json(documents: tuple[object, ...], read: Callable[[bytes, Path], object]) -> Reader:
    return Reader(tuple(json.dumps(each).encode() for each in documents), read, documents)


def _scan(path: Path) -> None:
    read_scan(path, 64)


@functools.cache
def readers() -> dict[str, Reader]:
    """By name."""
    rows = [{"id": f"0000/0000000{i}_00001", "text caption": "a washer"} for i in range(2)]
    split = {"train": ["0000/00000001"], "validation": [], "test": ["0000/00000002"]}
    scripts = tuple(script(program, each).encode() for program in programs() for each in Library)
    scripts += tuple(text.encode() for text in SCRIPTS.values())
    tar, index, manifest = shards()
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    return {
        "Omni-CAD JSON": _json(json_documents(), lambda data, _: documents.loads(data)),
        "captions": _json((rows,), _captions),
        "published split": _json((split,), lambda data, _: list(_split(data))),
        "zip": Reader((dataset_zip(),), _file("x.zip", _dataset)),
        "tokens": Reader(_tokens(), _file("x.tokens", read_program)),
        "script": Reader(scripts, lambda data, _: read_script(data)),
        "npy cloud": Reader(arrays(), _file("x.npy", _scan)),
        "npz cloud": Reader((npz(),), _file("x.npz", _scan)),
        "text cloud": Reader((b"20\n" + b"1 2 3\n4 5.5 6e1\n7 8 9 # z\n" * 7,), _file("x.xyz", _scan)),
        "picture": Reader(pictures(), lambda data, _: read_image(data, "x.png", 32)),
        "stored view": Reader(pictures()[:3], lambda data, _: decode_png(data)),
        **{kind.upper(): Reader(meshes(kind), _file(f"x.{kind}", _mesh)) for kind in ("stl", "ply", "obj", "glb")},
        "torch.save": Reader((torch_file(),), _file("x.ckpt", read_tensors)),
        "safetensors": Reader(
            (save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.float16)}),),
            _file("x.safetensors", read_tensors),
        ),
        "tar": Reader((tar,), _file("x.tar", _scan_tar)),
        "npy member": Reader(arrays(), lambda data, _: decode_array(data, "x")),
        "index": Reader((index,), functools.partial(_corpus, replaced=INDEX)),
        "manifest": _json((json.loads(manifest),), functools.partial(_corpus, replaced="manifest.json")),
        "seen programs": Reader(
            (encode_array(np.arange(5, dtype=np.uint64)),), _file(SEEN, lambda p: read_seen(p.parent))
        ),
        "checkpoint": _json((_config(),), _file("config.json", lambda path: CheckpointConfig.read(path.parent))),
        "models manifest": _json(
            ({"llm": {"sha256": "x", "bytes": 3}},), _file("manifest.json", lambda p: read_models(p.parent))
        ),
        "params": Reader(((ROOT / "params.yaml").read_bytes(),), _file("params.yaml", Params.load), (params,)),
    }


def _split(data: bytes):
    try:
        yield from read_split(data)
    except (ValueError, RecursionError) as error:  # as ``Dataset.published_split``
        raise UserError(str(error)) from error


def _mesh(path: Path) -> None:
    read_surfaces(path)
    read_scan(path, 64)
    read_triangles(path)
