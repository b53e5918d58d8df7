"""What every command does around its work: errors as one line, signals, how long it took."""

import functools
import gc
import json
import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec

import typer

from pipeline.runtime.errors import FULL, REFUSED, RejectError, UserError, system_error
from pipeline.runtime.interrupt import Interrupted, is_restarted_by_torchrun, listen, request, unlisten

P = ParamSpec("P")

DURATIONS = Path("logs/durations.jsonl")  # how fast things went: part of no result
VERBOSE = "CADMLLM_VERBOSE"  # variable: where an error comes from is told, too
COMMAND = "CADMLLM_COMMAND"  # variable: what the user typed, for processes that are started to do the work


def command(function: Callable[P, None]) -> Callable[P, None]:
    """A user's mistake is told without a traceback; a stop says how to go on. Exit codes 1 and 130.

    And it is told at once: a command looks at its arguments and inputs before it imports what takes seconds.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        # No library asks the network for what is already in a local folder.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        # PEFT asks transformers by a name that it will rename: nothing that a user could mend.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        try:
            try:
                function(*args, **kwargs)
            finally:
                request.is_over = True  # no call, in which a second signal could end this in a traceback
        except (UserError, RejectError) as error:
            if os.environ.get(VERBOSE, "") not in ("", "0"):
                traceback.print_exc()
            typer.secho(f"error: {error}", err=True, fg=color("red"))
            raise typer.Exit(1) from None
        except Interrupted as stop:
            again = "dvc repro" if os.environ.get("DVC_STAGE") else os.environ.get(COMMAND, typed())
            how = f". Go on with: {again}"
            if is_restarted_by_torchrun():
                how = ", and torchrun goes on with it, unless it was stopped itself"
            if os.environ.get("RANK", "0") == "0":
                typer.secho(f"stopped by {stop}; what is finished is kept{how}", err=True, fg=color("yellow"))
            raise typer.Exit(130) from None
        except Exception as error:
            told = _told(error)
            if told is None:
                raise
            typer.secho(f"error: {told}; what is finished is kept", err=True, fg=color("red"))
            raise typer.Exit(1) from None
        finally:
            unlisten()

    return run


@contextmanager
def importing() -> Iterator[None]:
    """Around imports of much, whose objects last: looking for garbage among them takes a sixth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def color(name: str) -> str | None:
    """A color for text, or none where the user wants none (https://no-color.org)."""
    return None if os.environ.get("NO_COLOR") else name


def _told(error: Exception) -> str | None:
    """What is wrong with the disk, or with what the user may do on it; None where it is something else."""
    where = getattr(error, "filename", None) or "this folder, or temporary files (TMPDIR says where they lie)"
    number = system_error(error)
    if number in FULL:
        return f"no space is left for {where}"
    if number in REFUSED:
        return f"{where} cannot be read or written: {os.strerror(number)}"
    return None


def typed() -> str:
    """The command that this process was started with, as a user types it."""
    return shlex.join(["cadmllm", *sys.argv[1:]])


def long_running(function: Callable[P, None]) -> Callable[P, None]:
    """A command that works for long: it also stops cleanly on SIGTERM and SIGINT."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        listen()
        started = time.monotonic()
        function(*args, **kwargs)
        if os.environ.get("RANK", "0") == "0":
            DURATIONS.parent.mkdir(exist_ok=True)
            with open(DURATIONS, "a", encoding="utf-8") as file:
                line = {"command": " ".join(sys.argv[1:]), "seconds": round(time.monotonic() - started, 1)}
                file.write(json.dumps(line) + "\n")

    return command(run)


def minutes_of(commands: Iterable[str]) -> float | None:
    """How long these commands took when they last ran to their end here; None where one of them never did."""
    try:
        lines = [json.loads(line) for line in DURATIONS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    last: dict[str, float] = {line["command"]: line["seconds"] for line in lines}
    wanted = list(commands)
    return round(sum(last[name] for name in wanted) / 60, 2) if last.keys() >= set(wanted) else None
