"""Omni-CAD folders and zips, good and bad."""

import json
import os
import re
import zipfile
from collections import Counter

import pytest

from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.omnicad.listing import base_model
from pipeline.cad.parts import synthesis
from pipeline.corpus.settings import Data, Split
from pipeline.corpus.splits import assign_splits
from pipeline.corpus.synthetic import make_synthetic_zip
from pipeline.runtime.errors import RejectError, UserError
from pipeline.shards.manifest import read_rejects, write_rejects
from tests.unit.conftest import listed

MODEL = documents.dumps(synthesis.make_part(0, 0, ("washer",)).program)


def write(folder, models, captions):
    for entry in models:
        path = folder / f"json/{entry}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MODEL)
    (folder / "txt").mkdir(exist_ok=True)
    for name, text in captions.items():
        (folder / "txt" / name).write_text(text if isinstance(text, str) else json.dumps(text))


def row(entry, caption="Generate a CAD model."):
    return {"id": entry, "text caption": caption}


def test_every_caption_and_every_model_is_counted_once(tmp_path):
    a, b, c, d = (f"0000/0000000{i}_00001" for i in range(4))
    rows = [
        row(a),
        row(a),
        row(b, 5),
        row("../../etc/passwd"),
        row(c),
        "text",
        {"text caption": "x"},
        row("0000/00000009_00001"),
    ]
    write(tmp_path, [a, b, c, d], {"0000.json": rows, "0001.json": "[broken", "0002.json": {"id": "x"}})
    entries, rejects = listed(Dataset(tmp_path))
    assert [entry.id for entry in entries] == [a, c]
    assert [entry.key for entry in entries] == ["000000000000_00001", "000000000002_00001"]
    assert sorted((r.reason, r.id) for r in rejects) == [
        ("bad_caption", b),
        ("bad_id", "txt/0000.json[3]"),
        ("bad_id", "txt/0000.json[5]"),
        ("bad_id", "txt/0000.json[6]"),
        ("caption_missing", d),
        ("duplicate_id", a),
        ("malformed_captions", "txt/0001.json"),
        ("malformed_captions", "txt/0002.json"),
        ("model_missing", "0000/00000009_00001"),
    ]


def test_what_utf8_cannot_write_costs_its_model_alone(tmp_path):
    a, b, c = (f"0000/0000000{i}_00001" for i in range(3))
    write(tmp_path, [a, b, c], {"0000.json": [row(a, "half \ud83d"), row(b, "whole \ud83d\ude00"), row(c)]})
    (tmp_path / os.fsdecode(b"json/0000/caf\xe9.json")).write_text(MODEL)
    entries, rejects = listed(Dataset(tmp_path))
    assert [(entry.id, entry.caption) for entry in entries] == [(b, "whole \U0001f600"), (c, "Generate a CAD model.")]
    write_rejects(tmp_path, rejects)
    assert [(reject.id, reject.reason, reject.detail) for reject in read_rejects(tmp_path)] == [
        ("0000/00000000_00001", "bad_caption", r"'half \ud83d' is not a text"),
        (r"0000/caf\udce9", "caption_missing", ""),
    ]


def test_a_zip_is_read_in_place_also_one_folder_down(tmp_path):
    entry = "0000/00000001_00001"
    with zipfile.ZipFile(tmp_path / "Omni-CAD.zip", "w") as archive:
        archive.writestr(f"Omni-CAD/json/{entry}.json", MODEL)
        archive.writestr("Omni-CAD/txt/0000.json", json.dumps([row(entry)]))
    dataset = Dataset(tmp_path / "Omni-CAD.zip")
    assert [e.id for e in dataset.listing()] == [entry]
    assert dataset.read(f"json/{entry}.json").decode() == MODEL
    with pytest.raises(RejectError, match="unreadable_file"):
        dataset.read("json/0000/nothing.json")


def test_what_is_no_dataset_is_told(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Dataset(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not an Omni-CAD dataset"):
        Dataset(tmp_path / "empty")
    (tmp_path / "file.zip").write_text("junk")
    with pytest.raises(UserError, match="readable zip"):
        Dataset(tmp_path / "file.zip")


def assigned_splits(bases, split, seed, published=None):
    return dict(assign_splits(bases, split, seed, (published or {}).get))


def test_splits_have_about_their_size_and_more_data_moves_nothing():
    split = Split(validation=0.1, test=0.2)
    bases = [f"0000/{i:08d}" for i in range(2000)]
    assigned = assigned_splits(bases, split, 0)
    counts = Counter(assigned.values())
    assert 0.07 < counts["validation"] / 2000 < 0.13
    assert 0.16 < counts["test"] / 2000 < 0.24
    fewer = assigned_splits(bases[:1500], split, 0)
    assert all(assigned[base] == fewer[base] for base in fewer)
    assert assigned != assigned_splits(bases, split, 1)


def test_the_published_test_split_is_kept_and_validation_comes_from_training():
    bases = [f"0000/{i:08d}" for i in range(2000)]
    published = {base: "test" if i % 4 == 0 else "train" for i, base in enumerate(bases)}
    assigned = assigned_splits(bases, Split(validation=0.1, test=0.2), 0, published)
    assert [assigned[base] == "test" for base in bases] == [i % 4 == 0 for i in range(2000)]
    assert Counter(assigned.values())["validation"] > 100


@pytest.mark.parametrize("count", range(3, 12))
def test_no_split_is_empty_where_there_are_enough_models(count):
    bases = {f"0000/{i:08d}" for i in range(count)}
    assert set(assigned_splits(bases, Split(validation=0.1, test=0.1), 0).values()) == {"train", "validation", "test"}


def test_a_base_model_is_what_its_versions_share():
    assert base_model("0000/00000071_00005") == base_model("0000/00000071_00001") == "0000/00000071"


def synthetic(num_models, families, unseen=(), test=0.1, general=0.0):
    return Data.model_validate(
        {
            "source": "synthetic",
            "path": "x",
            "limit": None,
            "synthetic": {
                "num_models": num_models,
                "families": families,
                "unseen_families": unseen,
                "general": general,
            },
            "split": {"validation": 0.1, "test": test},
            "prefixes": 0,
            "duplicates": "drop",
            "shard_size": 8,
            "max_program_tokens": 256,
        }
    )


def test_the_synthetic_corpus_is_a_dataset_and_always_the_same(tmp_path):
    data = synthetic(24, list(synthesis.FAMILIES))
    for name in ("a.zip", "b.zip"):
        make_synthetic_zip(tmp_path / name, data, seed=3)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    entries, rejects = listed(Dataset(tmp_path / "a.zip"))
    assert (len(entries), rejects) == (24, [])
    assert len({entry.caption for entry in entries}) > 15
    with_sizes = [entry.caption for entry in entries if "millimetres" in entry.caption]
    assert len(with_sizes) < 10


def test_a_share_of_the_synthetic_corpus_is_of_no_family(tmp_path):
    make_synthetic_zip(tmp_path / "a.zip", synthetic(24, ["washer"], general=0.5), seed=3)
    dataset = Dataset(tmp_path / "a.zip")
    found = Counter()
    for number, entry in enumerate(dataset.listing()):
        part = synthesis.make_part(3, number, ("washer",), 0.5)
        assert (entry.caption, dataset.read(f"json/{entry.id}.json")) == (
            part.caption,
            documents.dumps(part.program).encode(),
        )
        found[part == synthesis.make_part(3, number, ("washer",))] += 1
    assert found[True] > 5
    assert found[False] > 5


def test_unseen_families_are_in_the_test_split_alone(tmp_path):
    data = synthetic(200, ["washer"], ["clevis", "pulley"], test=0.3)
    make_synthetic_zip(tmp_path / "a.zip", data, seed=0)
    entries = list(Dataset(tmp_path / "a.zip").listing())
    splits = assigned_splits({base_model(entry.id) for entry in entries}, data.split, 0)
    unseen = re.compile("clevis|fork|pulley|wheel")
    found = Counter((splits[base_model(entry.id)], bool(unseen.search(entry.caption))) for entry in entries)
    assert found["test", True] > found["test", False] > 0
    assert found["train", True] == found["validation", True] == 0
