"""The log of a stage: JSONL is the truth, W&B its mirror under the names of the curriculum document.

Only what depends on nothing but the inputs is in the log, which is part of a checkpoint. How fast it went is in a file
of its own. The only module that imports wandb.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.csv_files import csv_text
from pipeline.errors import UserError
from pipeline.params import MODALITIES, CurriculumStage, Tracking

Line = dict[str, Any]


class StageLog:
    """A JSONL file with a line for each event.

    Args:
        path: of the log.
        length: bytes of it that belong to the state that is resumed; what follows them will be written again.
        speed: of the file that holds how fast it went.
        writes: whether this process has the files; the others are given ``lines`` of the one that does.
        listener: is given every line too.

    Raises:
        UserError: the log is shorter than that.
    """

    def __init__(self, path: Path, length: int, speed: Path, writes: bool, listener: Callable[[Line], None]) -> None:
        self.path, self.speed, self.writes, self.listener = path, speed, writes, listener
        self.lines: list[Line] = []
        if writes:
            for file in (path, speed):
                file.parent.mkdir(parents=True, exist_ok=True)
            self.lines = cut(path, length)
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


def cut(path: Path, length: int) -> list[Line]:
    """Cut a log back to so many bytes; its lines. In place: whenever it is killed, what a state counts on is there.

    Raises:
        UserError: it is shorter.
    """
    with open(path, "a+b") as file:
        found = file.seek(0, os.SEEK_END)
        if found < length:
            raise UserError(
                f"{path} is damaged: it has {found} bytes, of which the saved state beside it counts on {length}; "
                f"remove {path.parent} to begin anew"
            )
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


class Mirror:
    """A stage's run in W&B, under the document's names.

    Online it follows the log line by line, and goes on after an interruption. An offline run cannot be resumed (W&B
    would start a second one), so it is written when the stage is done.
    """

    def __init__(
        self, tracking: Tracking, name: str, number: int, stage: CurriculumStage, run_id: str, config: dict[str, Any]
    ) -> None:
        self.tracking, self.name, self.number, self.stage = tracking, name, number, stage
        self.run_id, self.config = run_id, config
        self._run: Any = None
        self._sent = -1

    def start(self) -> None:
        """Open the run, where lines are to be sent as they come."""
        if self.tracking.wandb_mode == "online":
            self._open()

    def _open(self) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        online = self.tracking.wandb_mode == "online"
        self._run = wandb.init(
            project=self.tracking.wandb_project,
            entity=self.tracking.wandb_entity,
            mode=self.tracking.wandb_mode,
            name=self.name,
            id=self.run_id,
            config=self.config,
            resume="allow" if online else None,
            tags=[self.name, *self.stage.modalities],
        )
        self._run.define_metric("*", step_metric="train/step")
        if online:
            self._sent = int(self._run.summary.get("train/step", -1))

    def __call__(self, line: Line) -> None:
        """Send one line; those that a resumed run has already are left out."""
        if self._run is not None and line["step"] >= self._sent:
            self._run.log(wandb_row(line, self.name, self.number, self.stage))

    def finish(self, *files: Path) -> None:
        """Close the run; one that could not be written before is written from the files."""
        if self.tracking.wandb_mode == "offline":
            self._open()
            for line in sorted((line for file in files for line in read_log(file)), key=lambda line: line["step"]):
                self(line)
        if self._run is not None:
            self._run.finish()


def wandb_row(line: Line, stage_name: str, stage_number: int, stage: CurriculumStage) -> dict[str, Any]:
    """A line under the document's names."""
    row: dict[str, Any] = {"train/step": line["step"]}
    if line["event"] == "train":
        row |= {
            "train/loss": line["loss"],
            "train/stage": stage_number,
            "train/learning_rate": line["lr"],
            "train/grad_norm": line["grad_norm"],
        }
        row |= {f"train/active_modalities/{m}": float(m in stage.modalities) for m in MODALITIES}
        row |= {f"train/learning_rate/{name}": rate for name, rate in line["learning_rates"].items()}
        row |= {f"train/combination/{name}": share for name, share in line["combinations"].items()}
        row |= {f"train/intended/{name}": share for name, share in line["intended"].items()}
        row |= {f"train/target_share/{name}": share for name, share in line["target_shares"].items()}
    elif line["event"] == "epoch":
        row |= {f"epoch/{stage_name}_loss": line["loss"], "epoch/epoch": line["epoch"]}
    elif line["event"] == "validation":
        row |= {f"validation/{name}_loss": loss for name, loss in line["loss"].items()}
    elif line["event"] == "speed":
        row |= {f"speed/{name}": value for name, value in line.items() if name not in ("event", "step")}
    return row
