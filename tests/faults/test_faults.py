"""A schedule of the campaign; ``make faults`` runs all."""

import sys
import time
from dataclasses import replace

import pytest

from pipeline.runtime.atomic import publish
from tests.faults.__main__ import MOUNTS, main
from tests.faults.faults import FAULTS
from tests.faults.project import digest
from tests.faults.schedule import Planned, draw, shrink
from tests.faults.watcher import Watcher


@pytest.mark.longer
def test_a_schedule_is_survived(tmp_path, monkeypatch, capsys):
    """One that needs no mounts: processes that are there already fork what it starts."""
    monkeypatch.setenv(MOUNTS, "0")
    monkeypatch.setattr(sys, "argv", ["faults", "--seeds", "7", "--as-drawn", "--work", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().out
    assert (end.value.code, "1 of 1 schedules survived" in said) == (0, True), said


def test_a_seed_is_a_schedule():
    assert draw(7) == draw(7) != draw(8)
    assert {fault.kind for each in map(draw, range(200)) for fault in each.faults} == FAULTS.keys()
    assert all(fault.stage < each.count for each in map(draw, range(200)) for fault in each.faults)


def test_a_schedule_that_fails_is_shrunk_to_what_it_takes():
    faults = tuple(Planned(0, kind, "time", 0.5, 0.5) for kind in ("Kill", "Torn", "Term", "Flipped", "Kill"))
    schedule = replace(draw(0), faults=faults)

    def fails(shorter):
        kinds = [fault.kind for fault in shorter.faults]
        return "Torn" in kinds and kinds.count("Kill") == 1

    kept = shrink(schedule, lambda shorter: fails(shorter) or len(shorter.faults) == 5)
    assert [faults[number].kind for number in kept] == ["Torn", "Kill"]


def test_the_watcher_sees_what_is_half_written_and_nothing_else(tmp_path):
    for name in ("whole", "half"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("a")
    (tmp_path / "whole/b").write_text("b")
    with Watcher(tmp_path, {"out": {digest(tmp_path / "whole")}}) as watcher:
        publish(tmp_path / "whole", tmp_path / "out")
        time.sleep(0.1)
        assert (watcher.wrong, watcher.published > 0) == ([], True)
        publish(tmp_path / "half", tmp_path / "out")
        time.sleep(0.1)
        (tmp_path / "out/b").write_text("b")
    assert len(watcher.wrong) == 1
    assert watcher.wrong[0].startswith("out was not whole")
