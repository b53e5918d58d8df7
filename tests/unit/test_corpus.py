"""Prefixes of models as models of their own."""

import csv
from pathlib import Path

from pipeline.cad import omnicad
from pipeline.data.corpus import build_corpus
from pipeline.data.dataset import base_model
from pipeline.params import parse
from pipeline.presets import compose
from pipeline.shards.reader import INDEX, ShardReader


def build(folder: Path, prefixes: int):
    p = parse(compose("smoke"), "smoke")
    data = p.data.model_copy(update={"prefixes": prefixes})
    counts = build_corpus(data, p.codec, p.kernel, 0, folder / "scratch", folder / "out", 2, lambda *_: None)
    reader = ShardReader(folder / "out", "corpus")
    samples = [
        (shard.name, reader.json(shard.name, key))
        for shard in reader.manifest.shards
        for key in reader.keys(shard.name)
    ]
    return counts, samples


def test_prefixes_join_the_train_split_alone(tmp_path):
    plain, whole = build(tmp_path / "plain", 0)
    counts, samples = build(tmp_path / "prefixes", 2)
    known = {sample["id"]: shard.partition("-")[0] for shard, sample in whole}
    programs = {sample["id"]: omnicad.from_document(sample["program"]) for _, sample in samples}
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
    with (tmp_path / "prefixes" / "out" / INDEX).open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == [sample["id"] for _, sample in samples]
    assert not (tmp_path / "prefixes" / "out" / "prefixes").exists()
