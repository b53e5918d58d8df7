"""Programs that training has are no test."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.cad.language.program import Frame
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.listing import Entry, base_model
from pipeline.cad.parts import synthesis
from pipeline.corpus.build import build_corpus
from pipeline.corpus.duplicates import known_to_training
from pipeline.corpus.prepare import PrepareTask, model_id, prepare
from pipeline.corpus.selection import Selection
from pipeline.corpus.settings import Split
from pipeline.corpus.splits import drawn_split
from pipeline.execution.workers import Workers
from pipeline.planning.params import Params
from pipeline.planning.presets import compose
from pipeline.runtime.errors import UserError
from pipeline.settings.places import SHIPPED
from pipeline.shards.manifest import Manifest, read_rejects
from pipeline.shards.reader import CorpusReader
from pipeline.shards.seen import SEEN, read_seen, write_seen

SPLIT = Split(validation=0.25, test=0.25)


def program(number, seed=0, family="washer"):
    return synthesis.make_part(seed, number, (family,)).program


def hash_of(given, bits=8):
    task = PrepareTask(Entry("0000/00000000_00001", "x"), documents.dumps(given).encode(), bits, 0.025, 512)
    return prepare(task)["program_hash"]


def test_place_scale_and_codec_make_no_other_program():
    part = program(0, family="l_bracket")
    elsewhere = part.normalised(Frame((0.3, -2.0, 0.1), 0.02))
    assert hash_of(part) == hash_of(elsewhere) == hash_of(part, bits=11)
    assert hash_of(part) != hash_of(program(1, family="l_bracket"))


def test_what_is_left_out_says_of_what_it_is_a_duplicate():
    programs = {
        "train": {"a_1": "1", "b_1": "1", "c_1": "2"},
        "validation": {"d_1": "1", "e_1": "3"},
        "test": {"f_1": "4", "g_1": "3", "h_1": "2"},
    }
    selection = Selection()
    for members in programs.values():
        for entry, known in members.items():
            selection.add({"id": entry, "program_hash": known}, entry, is_prefix=False)
    published = [(base_model(entry), split) for split, members in programs.items() for entry in members]
    selection.assign_splits(Split(validation=0.0, test=0.0), 0, published)
    found = {reject.id: (reject.reason, reject.detail) for reject in known_to_training(selection, frozenset("4"))}
    assert found == {
        "d_1": ("duplicate_of_train", "the same program as a_1 of the train split"),
        "f_1": ("seen_in_training", "a network was trained on the same program"),
        "h_1": ("duplicate_of_train", "the same program as c_1 of the train split"),
    }


def write_dataset(folder, programs):
    captions = []
    for number, given in enumerate(programs):
        entry = model_id(f"0000/{number:08d}", given)
        path = folder / f"json/{entry}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(documents.dumps(given))
        captions.append({"id": entry, "text caption": "x"})
    (folder / "txt").mkdir()
    (folder / "txt/0000.json").write_text(json.dumps(captions))


def build(folder, programs, seen=frozenset(), **changes):
    write_dataset(folder / "raw", programs)
    p = Params.parse(compose("smoke"), "smoke")
    update = {"source": "omnicad", "path": str(folder / "raw"), "split": SPLIT, **changes}
    data = p.data.model_copy(update=update)
    return build_corpus(
        data, p.codec, p.kernel, 0, folder / "scratch", folder / "out", Workers(2), lambda *_: None, seen=seen
    )


@pytest.mark.slow
def test_duplicates_are_counted_and_leave_validation_and_test(tmp_path):
    splits = [drawn_split(f"0000/{number:08d}", SPLIT, 0) for number in range(24)]
    first = splits.index("train")
    programs = [program(number) for number in range(24)]
    copies = [splits.index(name, first + 1) for name in ("train", "validation", "test")]
    for number in copies:
        programs[number] = programs[first]
    shown = next(n for n, name in enumerate(splits) if name == "test" and n not in copies)
    seen = frozenset({hash_of(programs[shown])})
    kept = build(tmp_path / "keep", programs, seen, duplicates="keep")
    counts = build(tmp_path / "drop", programs, seen, duplicates="drop")
    assert counts["entries"] == kept["entries"] == kept["accepted"] == 24
    assert counts["accepted"] + counts["rejected"] == counts["accepted"] + sum(counts["reasons"].values()) == 24
    assert counts["reasons"] == {"duplicate_of_train": 2, "seen_in_training": 1}
    assert counts["splits"]["train"] == kept["splits"]["train"] == splits.count("train")
    assert counts["duplicates_within_train"] == kept["duplicates_within_train"] == 1
    assert Manifest.read(tmp_path / "drop/out").details["counts"] == counts
    train = {hash_of(programs[number]) for number, name in enumerate(splits) if name == "train"}
    assert read_seen(tmp_path / "drop/out", "corpus") == read_seen(tmp_path / "keep/out", "corpus") == train
    left_out = {reject.id for reject in read_rejects(tmp_path / "drop/out")}
    assert left_out == {f"0000/{number:08d}_00001" for number in (*copies[1:], shown)}
    corpus = CorpusReader(tmp_path / "drop/out")
    assert left_out.isdisjoint(corpus.id(row) for row in corpus.rows())


@pytest.mark.slow
def test_prefixes_of_training_models_count_too(tmp_path):
    whole = next(p for n in range(30) if len((p := program(n, family="flange")).extrudes) > 1)
    splits = [drawn_split(f"0000/{number:08d}", SPLIT, 0) for number in range(24)]
    programs = [program(number) for number in range(24)]
    programs[splits.index("train")] = whole
    programs[splits.index("test")] = replace(whole, extrudes=whole.extrudes[:1])
    assert "duplicate_of_train" not in build(tmp_path / "without", programs)["reasons"]
    assert build(tmp_path / "with", programs, prefixes=1)["reasons"] == {"duplicate_of_train": 1}


def test_a_split_that_this_empties_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no model is left for .*duplicate_of_train.*data\.duplicates"):
        build(tmp_path, [program(0)] * 12)


@pytest.mark.parametrize(
    ("seed", "general", "networks"),
    [
        (1000, 0.0, {"shape_encoder", "image_encoder"}),
        (2000, 0.6, {"shape_encoder", "image_encoder", "language_model"}),
    ],
)
@pytest.mark.slow
def test_shipped_networks_know_what_they_were_trained_on(seed, general, networks):
    """Their lists against parts that their cards tell of, made again."""
    p = Params.parse(compose("pretraining"), "pretraining")
    settings = p.data.synthetic
    lists = {name: read_seen(SHIPPED / name) for name in ("shape_encoder", "image_encoder", "language_model")}

    for number in range(12):
        trained = drawn_split(f"0000/{number:08d}", p.data.split, seed) == "train"
        part = hash_of(synthesis.make_part(seed, number, settings.families, general).program)
        assert {name for name, seen in lists.items() if part in seen} == (networks if trained else set()), number
    assert hash_of(synthesis.make_part(seed, 0, settings.unseen_families).program) not in set().union(*lists.values())


def test_a_list_that_is_missing_or_damaged_is_told(tmp_path):
    with pytest.raises(UserError, match="cadmllm models"):
        read_seen(tmp_path)
    with pytest.raises(UserError, match="cadmllm corpus"):
        read_seen(tmp_path, "corpus")
    write_seen(tmp_path, frozenset({"00000000000000ff", "ffffffffffffffff"}))
    assert read_seen(tmp_path) == {"00000000000000ff", "ffffffffffffffff"}
    assert np.load(tmp_path / SEEN).tolist() == [255, 2**64 - 1]
    both = read_seen(tmp_path) | frozenset({"0000000000000001"})
    assert "0000000000000001" in both
    assert "0000000000000002" not in both
    assert "00000000000000ff" in both
    assert both.numbers.tolist() == [1, 255, 2**64 - 1], "eight bytes each"
    (tmp_path / SEEN).write_bytes(b"junk")
    with pytest.raises(UserError, match="damaged"):
        read_seen(tmp_path)
