"""What every command does around its work."""

import errno
import os
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


# A command that was asked to stop gets other signals at one after another of the moments when Python looks for them,
# once its work ends. Each time in a process of its own, which says how it ended.
SIGNALLED = """
import os, signal, sys, typer
from pipeline.runtime import commands, interrupt
from pipeline.runtime.errors import UserError

def work():
    global is_at_end
    signal.raise_signal(signal.SIGTERM)
    is_at_end = True
    if sys.argv[1] == "stops":
        interrupt.check()
    if sys.argv[1] == "fails":
        raise UserError("a mistake")

def look(frame, event, _):
    global moment
    moment += is_at_end and event in ("call", "c_return")
    if signals and moment >= first:
        signals.pop()
        signal.raise_signal(signal.SIGTERM)

for number in (1, 2):
    for first in range(1, 120):
        moment, is_at_end, signals = 0, False, [None] * number
        if (child := os.fork()) == 0:
            sys.setprofile(look)
            try:
                commands.long_running(work)()
                os._exit(0)
            except typer.Exit as end:
                os._exit(end.exit_code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(("how", "code"), [("returns", 0), ("fails", 1), ("stops", 130)])
def test_signals_at_the_end_of_a_command_are_no_traceback(how, code, tmp_path):
    args, env = [sys.executable, "-c", SIGNALLED, how], {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(args, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (found.returncode, "Traceback" in found.stderr) == (0, False), found.stderr[-2000:]
    assert {code, -signal.SIGTERM} <= set(map(int, found.stdout.split())) <= {code, 130, -signal.SIGTERM}


def test_other_faults_stay_what_they_are():
    def fails():
        sqlite3.connect("").execute("SELECT nothing")

    with pytest.raises(sqlite3.OperationalError):
        command(fails)()
    with pytest.raises(FileNotFoundError):
        command(lambda: Path("nowhere").read_bytes())()
