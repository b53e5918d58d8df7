"""The log of a stage: JSONL is the truth, W&B its mirror under the names of the curriculum document.

The only module that imports wandb.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.params import CurriculumStage, Tracking


class StageLog:
    """A JSONL file with a line for each event, cut back to a step on resuming."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        kept = []
        if resume_step > 0 and path.is_file():
            kept = [json.dumps(line) for line in read_log(path) if line["step"] <= resume_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "step": step, **values}) + "\n")


def read_log(path: Path) -> Iterator[dict[str, Any]]:
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
        "train": _csv(["step", "loss", "lr", "grad_norm"], train),
        "validation": _csv(["step", "combination", "loss"], validation),
    }


def _csv(header: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def wandb_rows(log: Path, stage_name: str, stage_number: int, stage: CurriculumStage) -> Iterator[dict[str, Any]]:
    """The log's lines under the document's names."""
    for line in read_log(log):
        row: dict[str, Any] = {"train/step": line["step"]}
        if line["event"] == "train":
            row |= {
                "train/loss": line["loss"],
                "train/stage": stage_number,
                "train/learning_rate": line["lr"],
                "train/grad_norm": line["grad_norm"],
                "train/padding_share": line["padding_share"],
            }
            row |= {
                f"train/active_modalities/{m}": float(m in stage.modalities) for m in ("text", "point_cloud", "image")
            }
            row |= {f"train/combination/{name}": share for name, share in line["combinations"].items()}
        elif line["event"] == "epoch":
            row |= {f"epoch/{stage_name}_loss": line["loss"], "epoch/epoch": line["epoch"]}
        elif line["event"] == "validation":
            row |= {f"validation/{name}_loss": loss for name, loss in line["loss"].items()}
        yield row


def mirror(
    tracking: Tracking,
    log: Path,
    run_name: str,
    run_id: str,
    stage_name: str,
    stage_number: int,
    stage: CurriculumStage,
    config: dict[str, Any],
) -> None:
    """Send a stage's whole log to W&B as one run.

    It is sent when the stage is done, so that interruptions leave one complete run (an offline run cannot be
    resumed: W&B would start a second one).
    """
    if tracking.wandb_mode == "disabled":
        return
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    with wandb.init(
        project=tracking.wandb_project,
        entity=tracking.wandb_entity,
        mode=tracking.wandb_mode,
        name=run_name,
        id=run_id,
        config=config,
        resume="allow" if tracking.wandb_mode == "online" else None,
        tags=[stage_name, *stage.modalities],
    ) as run:
        run.define_metric("*", step_metric="train/step")
        for row in wandb_rows(log, stage_name, stage_number, stage):
            run.log(row)
