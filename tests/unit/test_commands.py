"""What every command does around its work."""

import errno
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pipeline.runtime.commands import command
from pipeline.runtime.scratch import temporary_tables
from tests.conftest import ROOT


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


def refused():
    Path("/sys/file").touch()  # which is nobody's right


def refused_as_it_is_mounted():
    raise OSError(errno.EBUSY, "Device or resource busy", "models")


def refused_by_a_library():
    raise RuntimeError("Error while serializing: I/O error: Read-only file system (os error 30)")


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (refused, "error: /sys/file cannot be read or written: Permission denied; what is finished is kept"),
        (refused_as_it_is_mounted, "error: models cannot be read or written: Device or resource busy; what is"),
        (refused_by_a_library, "cannot be read or written: Read-only file system; what is finished is kept"),
    ],
)
def test_a_disk_that_refuses_is_told_without_a_traceback(work, told, capsys):
    with pytest.raises(typer.Exit) as stop:
        command(work)()
    assert stop.value.exit_code == 1
    assert told in capsys.readouterr().err


STOPPED = """
import atexit, signal, typer
from pipeline.runtime.commands import long_running
from pipeline.runtime import interrupt
def work():
    atexit.register(lambda: signal.raise_signal(signal.SIGTERM))
    signal.raise_signal(signal.SIGTERM)
    interrupt.check()
typer.run(long_running(work))
"""


@pytest.mark.slow
def test_a_second_stop_while_a_command_ends_is_no_traceback():
    found = subprocess.run([sys.executable, "-c", STOPPED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == -signal.SIGTERM
    assert found.stderr.count("stopped by SIGTERM; what is finished is kept. Go on with:") == 1
    assert "Traceback" not in found.stderr


def test_other_faults_stay_what_they_are():
    def fails():
        sqlite3.connect("").execute("SELECT nothing")

    with pytest.raises(sqlite3.OperationalError):
        command(fails)()
    with pytest.raises(FileNotFoundError):
        command(lambda: Path("nowhere").read_bytes())()
