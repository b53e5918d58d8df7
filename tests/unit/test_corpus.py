"""Prefixes of models as models of their own, and data that change while they are read."""

import json
from pathlib import Path

import pytest

from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.omnicad.listing import base_model
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.cad.parts import synthesis
from pipeline.corpus import build as build_module
from pipeline.corpus.build import build_corpus
from pipeline.corpus.prepare import model_id, read_texts
from pipeline.execution.workers import Workers
from pipeline.geometry.build import build_geometry
from pipeline.planning.params import Params
from pipeline.planning.presets import compose
from pipeline.runtime.errors import UserError
from pipeline.shards.manifest import read_rejects
from pipeline.shards.reader import CorpusReader, ShardReader
from pipeline.shards.writer import write_shard
from tests.unit.test_raw_files import IDS, make, pack


def build(folder: Path, prefixes: int):
    p = Params.parse(compose("smoke"), "smoke")
    data = p.data.model_copy(update={"prefixes": prefixes})
    counts = build_corpus(data, p.codec, p.kernel, 0, folder / "scratch", folder / "out", Workers(2), lambda *_: None)
    reader = ShardReader(folder / "out", "corpus")
    samples = [(shard.name, reader.json(row)) for shard in reader.manifest.shards for row in reader.rows_of(shard.name)]
    return counts, samples


@pytest.mark.slow
def test_prefixes_join_the_train_split_alone(tmp_path):
    plain, whole = build(tmp_path / "plain", 0)
    counts, samples = build(tmp_path / "prefixes", 2)
    known = {sample["id"]: shard.partition("-")[0] for shard, sample in whole}
    programs = {sample["id"]: documents.from_document(sample["program"]) for _, sample in samples}
    added = [(shard, sample) for shard, sample in samples if sample["id"] not in known]
    assert len(added) > 5
    assert counts["accepted"] == plain["accepted"] + len(added)
    assert counts["entries"] == counts["accepted"] + counts["rejected"]
    assert counts["splits"]["test"] == plain["splits"]["test"]
    for shard, sample in added:
        assert shard.startswith("train-")
        parent = next(i for i in known if base_model(i) == base_model(sample["id"]))
        assert known[parent] == "train"
        prefix = programs[sample["id"]].extrudes
        assert prefix == programs[parent].extrudes[: len(prefix)]
        assert len(prefix) < len(programs[parent].extrudes)
        assert sample["caption"].startswith("Generate a CAD model made of ")
    reader = CorpusReader(tmp_path / "prefixes" / "out")
    for row, (shard, sample) in zip(reader.rows(), samples, strict=True):
        assert (reader.shard(row).name, reader.id(row), reader.caption(row)) == (shard, sample["id"], sample["caption"])
        assert reader.key(row) == sample["id"].replace("/", "")
        counts = {name: int(reader.index[name][row]) for name in ("num_extrudes", "num_curves")}
        assert counts.items() <= sample["statistics"].items()
        assert reader.index["program_tokens"][row] == len(reader.array(row, "program.npy"))
    assert not (tmp_path / "prefixes" / "out" / "prefixes").exists()


@pytest.mark.slow
def test_models_replaced_while_the_stage_runs_are_read_again(tmp_path, monkeypatch):
    captions = []
    for number in range(12):
        program = synthesis.make_part(0, number, ("flange", "l_bracket")).program
        entry = model_id(f"0000/{number:08d}", program)
        path = tmp_path / f"raw/json/{entry}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(documents.dumps(program))
        captions.append({"id": entry, "text caption": "x"})
    (tmp_path / "raw/txt").mkdir()
    (tmp_path / "raw/txt/0000.json").write_text(json.dumps(captions))
    p = Params.parse(compose("smoke"), "smoke")
    changes = {"source": "omnicad", "path": str(tmp_path / "raw"), "prefixes": 2, "duplicates": "keep"}
    data = p.data.model_copy(update=changes)

    def build(name):
        build_corpus(
            data, p.codec, p.kernel, 0, tmp_path / f"{name}-scratch", tmp_path / name, Workers(1), lambda *_: None
        )
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    read, replaced = Dataset.read, set()

    def read_and_replace(self, name):
        data = read(self, name)
        if name.startswith("json/") and name not in replaced:
            (tmp_path / "raw" / name).write_text(documents.dumps(synthesis.make_part(1, 0, ("washer",)).program))
            replaced.add(name)
        return data

    left_alone = build("left_alone")
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "read", read_and_replace)
        found = build("replaced")
    assert found == build("afterwards") != left_alone


@pytest.fixture
def washers(tmp_path):
    """The smoke preset on six washers with clouds, and their corpus of two shards or more."""
    p = Params.parse(compose("smoke"), "smoke")
    data = p.data.model_copy(
        update={"source": "omnicad", "path": str(make(tmp_path / "made")), "duplicates": "keep", "shard_size": 2}
    )
    p = p.model_copy(
        update={"data": data, "geometry": p.geometry.model_copy(update={"num_views": 1, "image_size": 16})}
    )
    build_corpus(
        data, p.codec, p.kernel, 0, tmp_path / "c", tmp_path / "corpus", Workers(1), lambda *_: None, ("train",)
    )
    return p


@pytest.mark.parametrize("missing", [0, 3])
def test_a_kill_while_the_corpus_is_written_costs_no_shard(tmp_path, washers, monkeypatch, missing):
    """Also where models are gone meanwhile, and there are fewer shards: the result is that of what is there."""
    written = []

    def write(path, samples):
        written.append(path.name)
        return write_shard(path, samples)

    def killed(*_):
        raise KeyboardInterrupt

    def made(name):
        scratch, out = tmp_path / f"{name}-scratch", tmp_path / name
        build_corpus(
            washers.data, washers.codec, washers.kernel, 0, scratch, out, Workers(1), lambda *_: None, ("train",)
        )
        return {path.name: path.read_bytes() for path in out.iterdir()}

    monkeypatch.setattr(build_module, "write_shard", write)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_module, "write_rejects", killed)
        made("killed")
    before = written.copy()
    assert len(before) > 2
    written.clear()
    for entry in IDS[:missing]:
        (tmp_path / f"made/json/{entry}.json").unlink()
    found = made("killed")
    again = written.copy()
    assert found == made("afresh")
    tars = {name for name in found if name.endswith(".tar")}
    assert (again == []) if not missing else (tars < set(before))


def draw_all(p, folder, data, progress=lambda *_: None):
    out = folder / "geometry"
    build_geometry(folder / "corpus", data, p.geometry, p.kernel, 0, folder / "g", out, Workers(1), progress)
    reader = ShardReader(out, "geometry")
    clouds = [reader.array(row, "points.npy") for row in reader.rows()]
    return clouds, read_rejects(out)


@pytest.mark.slow
def test_a_cloud_that_changes_while_others_are_drawn_is_read_again(tmp_path, washers):
    reader = ShardReader(tmp_path / "corpus", "corpus")
    shards = [shard.name for shard in reader.manifest.shards]
    changed, drawn = reader.json(0)["id"], []

    def progress(done, total, text):
        drawn.append(text)
        if drawn == [shards[0]]:  # what is there of it is of the old cloud
            (tmp_path / f"made/pcd/{changed}.npy").write_bytes(b"junk")

    _, rejects = draw_all(washers, tmp_path, washers.data, progress)
    assert [(reject.id, reject.reason) for reject in rejects] == [(changed, "bad_points")]
    assert [text for text in drawn if text in shards] == [*shards, shards[0]]


@pytest.mark.slow
def test_a_zip_that_is_packed_again_while_it_is_read_is_told(tmp_path, washers):
    archive = pack(tmp_path / "made", tmp_path / "Omni-CAD.zip")
    data = washers.data.model_copy(update={"path": str(archive)})
    shards = [shard.name for shard in ShardReader(tmp_path / "corpus", "corpus").manifest.shards]

    def pack_again(done, total, text):
        if text == shards[0]:  # the same files elsewhere
            archive.write_bytes(b"#!/bin/sh\n" * 50 + archive.read_bytes())

    with pytest.raises(UserError, match=r"Omni-CAD\.zip changed while it was read"):
        draw_all(washers, tmp_path, data, pack_again)
    again = []
    clouds, rejects = draw_all(washers, tmp_path, data, lambda done, total, text: again.append(text))
    assert rejects == []
    assert len(clouds) == len(IDS)
    assert [text for text in again if text in shards] == shards[1:]

    dataset = Dataset(archive)
    entries = list(dataset.listing())
    pack_again(0, 0, shards[0])
    with pytest.raises(UserError, match="changed while it was read"):
        list(read_texts(dataset, entries, Rejects()))
