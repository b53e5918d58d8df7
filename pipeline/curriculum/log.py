"""The log of a stage: JSONL is the truth, which plots, the report and Weights & Biases (``mirror``) are made from.

Only what depends on nothing but the inputs is in the log, which is part of a checkpoint. How fast it went is in a file
of its own.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.runtime.csv_files import csv_text

Line = dict[str, Any]


class StageLog:
    """A JSONL file with a line for each event.

    Args:
        path: of the log.
        length: bytes of it that belong to the state that is resumed; what follows them will be written again.
        speed: of the file that holds how fast it went.
        writes: whether this process has the files; the others are given ``lines`` of the one that does.
        listener: is given every line too.
    """

    def __init__(self, path: Path, length: int, speed: Path, writes: bool, listener: Callable[[Line], None]) -> None:
        self.path, self.speed, self.writes, self.listener = path, speed, writes, listener
        self.lines: list[Line] = []
        if writes:
            for file in (path, speed):
                file.parent.mkdir(parents=True, exist_ok=True)
            self.lines = truncate(path, length)
            speed.open("a" if length else "w").close()

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one line."""
        line = {"event": event, "step": step, **values}
        self.lines.append(line)
        self._append(self.path, line)

    def write_speed(self, step: int, **values: Any) -> None:
        """Append one line to the file that is part of no result."""
        self._append(self.speed, {"event": "speed", "step": step, **values})

    def _append(self, path: Path, line: Line) -> None:
        if self.writes:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self.listener(line)

    def sync(self) -> int:
        """Force the log to disk; its length in bytes."""
        if not self.writes or not self.path.is_file():
            return 0
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def validations(self) -> list[Line]:
        """The lines that hold validation losses."""
        return [line for line in self.lines if line["event"] == "validation"]


def truncate(path: Path, length: int) -> list[Line]:
    """Cut a log back to so many bytes; its lines. In place: whenever it is killed, what a state counts on is there."""
    with open(path, "a+b") as file:
        found = file.seek(0, os.SEEK_END)
        assert found >= length, "a state whose part of the log is not there is not gone on from"
        file.truncate(length)
        file.seek(0)
        return [json.loads(line) for line in file]


def read_log(path: Path) -> Iterator[Line]:
    """The lines of a log; a last one that was cut off is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def plot_tables(log: Path) -> dict[str, str]:
    """CSV texts for ``dvc plots`` out of a log: the training loss, and the validation loss of each combination."""
    lines = list(read_log(log))
    train = [[line["step"], line["loss"], line["lr"], line["grad_norm"]] for line in lines if line["event"] == "train"]
    validation = [
        [line["step"], combination, loss]
        for line in lines
        if line["event"] == "validation"
        for combination, loss in line["loss"].items()
    ]
    return {
        "train": csv_text(["step", "loss", "lr", "grad_norm"], train),
        "validation": csv_text(["step", "combination", "loss"], validation),
    }
