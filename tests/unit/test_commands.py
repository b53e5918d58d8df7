"""What every command does around its work."""

import sqlite3
from pathlib import Path

import pytest
import typer

from pipeline.runtime.commands import command
from pipeline.runtime.scratch import temporary_tables


def fill_a_file():
    with open("/dev/full", "w", buffering=1) as file:
        file.write("more than there is space for\n")


def fill_tables():
    tables = temporary_tables(fill_tables, "CREATE TABLE names (name TEXT)")
    tables.execute("PRAGMA max_page_count = 8")
    tables.executemany("INSERT INTO names VALUES (?)", [("a" * 4096,)] * 64)


@pytest.mark.parametrize("work", [fill_a_file, fill_tables])
def test_a_full_disk_is_told_without_a_traceback(work, capsys):
    with pytest.raises(typer.Exit) as stop:
        command(work)()
    assert stop.value.exit_code == 1
    assert "no space is left for this folder, or temporary files (TMPDIR" in capsys.readouterr().err


def test_other_faults_stay_what_they_are():
    def fails():
        sqlite3.connect("").execute("SELECT nothing")

    with pytest.raises(sqlite3.OperationalError):
        command(fails)()
    with pytest.raises(FileNotFoundError):
        command(lambda: Path("nowhere").read_bytes())()
