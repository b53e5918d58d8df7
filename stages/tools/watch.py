"""``cadmllm status --watch``: what runs now in this project, and how far it is."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from rich.console import Group
from rich.live import Live
from rich.text import Text

from pipeline.model.checkpoint_folder import LOG
from pipeline.runtime.interrupt import Interrupted, stop_at_once
from pipeline.runtime.progress import console
from pipeline.runtime.scratch import SCRATCH

SPEED = "speed.jsonl"
EVERY_S = 2.0
TAIL = 8192  # bytes of a log that its last line lies in
MIB = 1 << 20


def watch() -> None:
    """Show it until Ctrl-C; where there is no terminal, lines each time that something has changed."""
    stop_at_once()
    try:
        if console.is_terminal:
            with Live(console=console, refresh_per_second=2) as live:
                while True:
                    live.update(Group(*(Text(line) for line in snapshot())))
                    time.sleep(EVERY_S)
        before: list[str] = []
        while True:
            now = snapshot()
            if [line.partition(",")[0] for line in now] != before:
                before = [line.partition(",")[0] for line in now]
                print("\n".join(now), flush=True)
            time.sleep(EVERY_S)
    except Interrupted:
        return


def snapshot() -> list[str]:
    """Commands that are at work here, and how far each piece of work in scratch is."""
    lines = [*_commands()] or ["nothing runs here; `dvc repro` does what there is to do"]
    return [*lines, *_work()]


def _commands() -> Iterator[str]:
    here = Path.cwd().resolve()
    for process in psutil.process_iter(["cmdline", "create_time"]):
        try:
            words = [Path(word).name if "/" in word else word for word in process.info["cmdline"] or ()]
            if "cadmllm" not in words or "status" in words or Path(process.cwd()) != here:
                continue
            family = [process, *process.children(recursive=True)]
            memory = sum(each.memory_info().rss for each in family) / MIB
            seconds = time.time() - process.info["create_time"]
            number = f"{len(family)} process{'es' if len(family) > 1 else ''}"
            name = " ".join(words[words.index("cadmllm") :])
            yield f"{name}, process {process.pid}: {_clock(seconds)}, {number}, {memory:,.0f} MiB"
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _work() -> Iterator[str]:
    for log in sorted(SCRATCH.glob(f"train-*/*/{LOG}")):
        last = _last(log, "train")
        if last is None:
            continue
        speed = _last(log.with_name(SPEED), "speed") or {}
        validation = _last(log, "validation")
        told = [f"{log.parts[1]}: step {last['step']}", f"loss {last['loss']:.3f}"]
        told += [f"{speed['tokens_per_s']:,.0f} tokens/s"] if "tokens_per_s" in speed else []
        if validation:
            losses = ", ".join(f"{name} {loss:.3f}" for name, loss in validation["loss"].items())
            told.append(f"validation after step {validation['step']}: {losses}")
        yield ", ".join(told)


def _last(path: Path, event: str) -> dict[str, Any] | None:
    """The last line of a kind, as far as a file's end has one."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:  # its beginning or end is not there
            continue
        if entry.get("event") == event:
            return entry
    return None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
