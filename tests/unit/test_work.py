"""What scratch keeps, and for what it is used again."""

import pytest

from pipeline.shards.manifest import Reject
from pipeline.shards.writer import write_shard
from pipeline.work import BLOCK, FinishedShard, Journal, shard_by_shard


def test_a_journal_finds_records_whatever_was_done_before_and_between(tmp_path):
    with Journal(tmp_path) as journal:
        for number in range(BLOCK + 3):
            journal.add(f"a{number}", {"value": number})
        assert len(list(tmp_path.glob("*.json"))) == 1, "what a kill would cost is less than a block"
    with Journal(tmp_path) as journal:
        journal.add("between", {"value": -1})
    found = Journal(tmp_path)
    assert [found[f"a{number}"]["value"] for number in range(BLOCK + 3)] == list(range(BLOCK + 3))
    assert found["between"] == {"value": -1}
    assert "never" not in found


def test_a_journal_keeps_what_is_finished_when_work_is_broken_off(tmp_path):
    def work():
        with Journal(tmp_path) as journal:
            journal.add("a", {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "a" in Journal(tmp_path)


def make(path):
    make.made.append(path.name)
    return FinishedShard(write_shard(path, [("key", {"txt": path.name.encode()})]), (Reject("x", "y", "z"),))


def made_by(folder, sources):
    make.made = []
    finished = shard_by_shard(folder, sources, make, lambda *_: None)
    assert [each.shard.name for each in finished] == list(sources)
    return make.made


def test_a_shard_is_used_again_for_exactly_what_it_was_made_from(tmp_path):
    assert made_by(tmp_path, {"a.tar": "1", "b.tar": "2", "c.tar": "3"}) == ["a.tar", "b.tar", "c.tar"]
    (tmp_path / ".b.tar.tmp").write_text("what a kill left")
    assert made_by(tmp_path, {"a.tar": "1", "b.tar": "other"}) == ["b.tar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.done.json", "a.tar", "b.done.json", "b.tar"]
    (tmp_path / "a.tar").write_bytes(b"cut off")
    (tmp_path / "b.done.json").write_text("{")
    assert made_by(tmp_path, {"a.tar": "1", "b.tar": "other"}) == ["a.tar", "b.tar"]
