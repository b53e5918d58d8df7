"""What scratch keeps, and for what it is used again."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.runtime.atomic import publish
from pipeline.runtime.errors import Reject, UserError
from pipeline.runtime.scratch import RECORDS, Journal, keep, kept_or, read_kept
from pipeline.shards import building
from pipeline.shards.building import SHARDS, FinishedShard, publish_shards, shard_by_shard
from pipeline.shards.manifest import Manifest
from pipeline.shards.writer import write_shard
from stages.tools.status import half_done
from tests.conftest import ROOT


def test_a_journal_finds_records_whatever_was_done_before_and_between(tmp_path):
    with Journal(tmp_path) as journal:
        for number in range(70):
            journal.add(f"a{number}", {"value": number})
        shutil.copytree(tmp_path, tmp_path / "killed")
    assert len(Journal(tmp_path / "killed")) == 70, "a kill costs none"
    with Journal(tmp_path) as journal:
        journal.add("between", {"value": -1})
    found = Journal(tmp_path)
    assert [found[f"a{number}"]["value"] for number in range(70)] == list(range(70))
    assert found["between"] == {"value": -1}
    assert "never" not in found


def test_a_journal_keeps_what_is_finished_when_work_is_broken_off(tmp_path):
    def work():
        with Journal(tmp_path) as journal:
            journal.add("a", {})
            journal.add("b", {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "a" in Journal(tmp_path)
    assert "b" in Journal(tmp_path)


WRITE_ON = """
import sys, pathlib
from pipeline.runtime.scratch import Journal
journal = Journal(pathlib.Path(sys.argv[1]))
for number in range(1 << 30):
    journal.add(f"{number:08d}", {"value": number, "text": "x" * (number * 7919 % 20000)})
    if number % 10 == 0:
        print(number, flush=True)
"""


def test_a_kill_in_the_middle_of_a_record_costs_that_record_alone(tmp_path):
    """Three kills of a process that does nothing but write; each time it goes on with the same file."""
    told = 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE_ON, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        with writer:
            told = max(told, *(int(next(writer.stdout)) for _ in range(5)))
            writer.kill()
        with Journal(tmp_path) as journal:
            assert len(journal) > told
            for number in range(len(journal)):  # none is missing between others
                assert journal[f"{number:08d}"] == {"value": number, "text": "x" * (number * 7919 % 20000)}


def test_a_journal_that_is_damaged_is_told(tmp_path):
    with Journal(tmp_path) as journal:
        journal.add("a", {})
    (tmp_path / RECORDS).write_bytes(b"junk" * 1000)
    with pytest.raises(UserError, match=rf"{RECORDS} cannot be used .*remove it"):
        Journal(tmp_path)


def test_a_record_that_a_disk_has_damaged_is_made_again(tmp_path):
    with Journal(tmp_path) as journal:
        journal.add("a", {"value": "as it was"})
        journal.add("b", {"value": "another"})
    place = tmp_path / RECORDS
    assert place.read_bytes().count(b"as it was") == 1
    for damaged in (b"as it is!", b"as it \xff\xff\xff"):
        place.write_bytes(re.sub(rb"as it (was|is!)", lambda _, new=damaged: new, place.read_bytes()))
        with Journal(tmp_path) as journal:
            assert "a" not in journal
            assert journal["b"] == {"value": "another"}


@pytest.mark.parametrize("value", [{"b": [1.5, None], "a": "ä"}, [], 0.1, True])
def test_what_is_kept_is_what_it_was_or_nothing(tmp_path, value):
    place = tmp_path / "kept.json"
    assert kept_or("none", place) == "none"
    keep(place, value)
    whole = place.read_bytes()
    assert read_kept(place) == value
    for at in range(len(whole)):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        assert kept_or("none", place) == "none"
        place.write_bytes(whole[:at])
        assert kept_or("none", place) == "none"


def make(paths):
    for path in paths:
        make.made.append(path.name)
        yield FinishedShard(write_shard(path, [("key", {"txt": path.name.encode()})]), (Reject("x", "y", "z"),))


def flip(path):
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def made_by(folder, sources):
    make.made = []
    finished = shard_by_shard(folder, sources, make, lambda *_: None)
    assert [each.shard.name for each in finished] == list(sources)
    return make.made


def test_a_shard_is_used_again_for_exactly_what_it_was_made_from(tmp_path):
    assert made_by(tmp_path, {"a.tar": "1", "b.tar": "2", "c.tar": "3"}) == ["a.tar", "b.tar", "c.tar"]
    (tmp_path / SHARDS / ".b.tar.tmp").write_text("what a kill left")
    (tmp_path / SHARDS / ".d.tar.tmp").mkdir()
    assert made_by(tmp_path, {"a.tar": "1", "b.tar": "other"}) == ["b.tar"]
    kept = ["a.done.json", "a.rows.npy", "b.done.json", "b.rows.npy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*kept, SHARDS]
    assert sorted(path.name for path in (tmp_path / SHARDS).iterdir()) == ["a.tar", "b.tar"]
    (tmp_path / SHARDS / "a.tar").write_bytes(b"cut off")
    (tmp_path / "b.done.json").write_text("{")
    assert made_by(tmp_path, {"a.tar": "1", "b.tar": "other"}) == ["a.tar", "b.tar"]
    flip(tmp_path / SHARDS / "a.tar")
    flip(tmp_path / "b.rows.npy")
    assert made_by(tmp_path, {"a.tar": "1", "b.tar": "other"}) == ["a.tar", "b.tar"]
    (tmp_path / "a.rows.npy").write_bytes(b"cut off")
    (tmp_path / "b.rows.npy").unlink()
    assert made_by(tmp_path, {"a.tar": "1", "b.tar": "other"}) == ["a.tar", "b.tar"]


@pytest.mark.parametrize("step", ["write_rejects", "write_index", "publish"])
def test_a_kill_while_shards_are_published_costs_none_of_them(tmp_path, monkeypatch, step):
    def killed(*_):
        raise KeyboardInterrupt

    folder, out, sources = tmp_path / "scratch", tmp_path / "out", {"a.tar": "1", "b.tar": "2"}

    def published():
        finished = shard_by_shard(folder, sources, make, lambda *_: None)
        publish_shards(folder, out, finished, "geometry", {}, {})

    make.made = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(building, step, killed)
        published()
    published()
    assert make.made == ["a.tar", "b.tar"]
    names = ["a.tar", "b.tar", "index.npy", "manifest.json", "rejects.csv"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert Manifest.read(out, "geometry").details["counts"] == {"samples": 2, "rejected": 2}
    assert not folder.exists()


def test_what_lies_on_another_file_system_is_published_whole(tmp_path):
    """As where scratch/ is a link to a disk that has locks."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is one file system alone")
        for text in ("first", "second"):
            made = Path(other, "made")
            (made / "inner").mkdir(parents=True)
            (made / "inner/file").write_text(text)
            publish(made, tmp_path / "out")
            assert (tmp_path / "out/inner/file").read_text() == text
            assert not made.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_status_says_what_is_half_done(tmp_path):
    with Journal(tmp_path / "corpus/0123") as journal:
        journal.add("a", {"text": "x" * 200_000})
        batch = tmp_path / "evaluation-all/4567/parts/measured/0.json"
        batch.parent.mkdir(parents=True)
        batch.write_text("{}")
        said = half_done(tmp_path)
    assert len(said) == 2
    assert re.search(r"corpus/0123: 0\.[2-9] MB of records", said[0])
    assert said[1].endswith("evaluation-all/4567: 1 finished batch")
