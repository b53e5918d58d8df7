"""Real models that nothing was trained on: which those are, and why there are none."""

import re
import shutil

import pytest
import torch
from typer.testing import CliRunner

from pipeline.corpus.build import EmptySplitError, build_corpus
from pipeline.corpus.settings import Split
from pipeline.corpus.splits import drawn_split
from pipeline.evaluation.real_models import no_real_models, real_path
from pipeline.evaluation.transfer import SPLIT, prepare_real
from pipeline.execution.workers import Workers
from pipeline.planning.params import Params
from pipeline.runtime.fingerprint import sha256_folder
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import CorpusReader
from pipeline.shards.seen import read_seen, write_seen
from stages import transfer as stage
from stages.cli import app
from tests.unit.test_duplicates import hash_of, program, write_dataset
from tests.unit.test_raw_files import make, pack


def changed(p: Params, **sections) -> Params:
    """With these values in the sections."""
    return p.model_copy(update={name: getattr(p, name).model_copy(update=new) for name, new in sections.items()})


@pytest.fixture
def reason(smoke):
    def reason(source, data, real):
        sections = {"data": {"source": source, "path": str(data)}, "transfer": {"path": str(real)}}
        return no_real_models(changed(smoke, **sections))

    return reason


def test_where_no_real_models_are_to_be_measured_it_is_said(tmp_path, reason):
    made, raw = make(tmp_path / "made"), tmp_path / "raw"
    raw.mkdir()
    assert reason("synthetic", "x", raw) == f"transfer.path ({raw}) holds no Omni-CAD"
    own = "the curriculum is trained on real models, and its own test split measured after each stage"
    assert reason("omnicad", made, raw) == f"{own}; transfer.path ({raw}) holds no others"
    (raw / "Omni-CAD").symlink_to(made)
    assert reason("synthetic", "x", raw) is None
    assert "is what the curriculum is trained on" in reason("omnicad", made, raw)
    assert reason("omnicad", make(tmp_path / "other"), raw) is None


def test_what_is_wrong_with_the_real_models_is_why_none_are_measured(tmp_path, reason, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.zip").write_bytes(b"PK cut off")
    said = reason("synthetic", "x", tmp_path / "cut.zip")
    assert said.startswith(f"transfer.path ({tmp_path}/cut.zip): cut.zip is neither a folder nor a readable zip")
    make(tmp_path / "raw/Mine")
    make(tmp_path / "raw/Theirs")
    assert reason("synthetic", "x", "raw") == "transfer.path (raw): raw holds Mine and Theirs: name one of them"
    (tmp_path / "raw/Theirs/img").symlink_to("gone")
    assert "raw/Theirs/img is a link to gone" in reason("synthetic", "x", "raw")
    (tmp_path / "raw/Omni-CAD").symlink_to("nowhere")
    assert "raw/Omni-CAD is a link to nowhere, which is not there" in reason("synthetic", "x", "raw")


@pytest.mark.parametrize("name", ["Omni-CAD", "Omni-CAD.zip"])
def test_omnicad_is_taken_first_of_what_lies_there(tmp_path, smoke, reason, name):
    made = make(tmp_path / "raw/Mine")
    (tmp_path / "raw/Mine/img").symlink_to("gone")
    (tmp_path / "raw/half.zip").write_bytes(b"PK cut off")
    if name == "Omni-CAD":
        make(tmp_path / "raw" / name)
        (tmp_path / "raw/Omni-CAD.zip").write_bytes(b"PK cut off")
    else:
        pack(made, tmp_path / "raw" / name)
    assert reason("synthetic", "x", tmp_path / "raw") is None
    assert real_path(changed(smoke, transfer={"path": str(tmp_path / "raw")})) == tmp_path / "raw" / name


@pytest.fixture
def trained(tmp_path, smoke):
    """The smoke preset on twelve washers in a folder, its corpus, and a folder of models that saw none of them."""
    write_dataset(tmp_path / "raw", [program(number) for number in range(12)])
    p = changed(
        smoke,
        data={"source": "omnicad", "path": str(tmp_path / "raw"), "split": Split(validation=0.2, test=0.2)},
        geometry={"num_views": 1, "image_size": 16},
        transfer={"path": str(tmp_path / "copy"), "limit": 100},
    )
    build_corpus(p.data, p.codec, p.kernel, 0, tmp_path / "c", tmp_path / "corpus", Workers(1), lambda *_: None)
    (tmp_path / "models").mkdir()
    write_seen(tmp_path / "models", frozenset())
    return p


def prepare(p, made, folder, unchanged=lambda: True):
    models, corpus = folder / "models", folder / "corpus"
    return prepare_real(p, [], models, corpus, torch.device("cpu"), made, Workers(1), lambda *_: None, unchanged)


def numbers(folder, split):
    corpus = CorpusReader(folder)
    return {int(corpus.id(row)[5:13]) for row in corpus.rows(split)}


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
@pytest.mark.slow
def test_a_copy_of_what_was_trained_on_is_measured_without_it(tmp_path, trained, duplicates):
    write_dataset(tmp_path / "copy", [program(number) for number in range(16)])
    p = changed(trained, data={"duplicates": duplicates})
    assert no_real_models(p) is None
    found = prepare(p, tmp_path / "real", tmp_path)
    learnt = read_seen(tmp_path / "corpus", "corpus")
    hashes = [hash_of(program(number)) for number in range(16)]
    drawn = [drawn_split(f"0000/{number:08d}", SPLIT, p.seed) for number in range(16)]
    set_aside = {each for each, split in zip(hashes, drawn, strict=True) if split == "train"}
    tested = numbers(found.corpus, "test")
    new = {number for number in range(16) if hashes[number] not in learnt | set_aside and drawn[number] == "test"}
    assert tested == new
    assert len(new) > 5
    counts = Manifest.read(found.corpus, "corpus").details["counts"]
    assert counts["reasons"]["seen_in_training"] > 2


def test_where_all_was_trained_on_this_is_why_none_is_measured(tmp_path, trained, monkeypatch):
    train = numbers(tmp_path / "corpus", "train")
    write_dataset(tmp_path / "copy", [program(number) for number in sorted(train)])
    with pytest.raises(EmptySplitError):
        prepare(trained, tmp_path / "real", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "find_trained", lambda *_: None)
    monkeypatch.setattr(stage, "_measure", lambda *_: prepare(trained, tmp_path / "real", tmp_path))
    monkeypatch.setattr("pipeline.settings.params.Sections.load", lambda: trained)
    found = CliRunner().invoke(app, ["transfer"])
    assert found.exit_code == 0, found.output
    assert (tmp_path / "metrics/transfer.json").read_text() == "{}\n"
    said = (tmp_path / "evaluations/transfer/skipped.txt").read_text()
    assert re.search(rf"is left to test \({len(train)} entries; rejected: .*\d seen_in_training", said)


@pytest.mark.slow
def test_what_changes_while_it_is_read_is_not_taken_for_what_was_there(tmp_path, trained):
    """The folder is that of models which were there before, and may be put back."""
    write_dataset(tmp_path / "copy", [program(number) for number in range(16, 40)])
    expected = prepare(trained, tmp_path / "apart", tmp_path)
    (tmp_path / "copy").rename(tmp_path / "before")
    write_dataset(tmp_path / "copy", [program(number) for number in range(40, 64)])
    assert prepare(trained, tmp_path / "real", tmp_path, lambda: False) is None
    shutil.rmtree(tmp_path / "copy")
    (tmp_path / "before").rename(tmp_path / "copy")
    found = prepare(trained, tmp_path / "real", tmp_path)
    assert sha256_folder(found.corpus) == sha256_folder(expected.corpus)
    assert sha256_folder(found.geometry) == sha256_folder(expected.geometry)
