"""What is in the files of offline W&B runs: the program that sends them reads the same records."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from wandb.proto import wandb_internal_pb2


@dataclass
class WandbRun:
    """One run; a series is a list of its values, by key."""

    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list = field(default_factory=list)
    step_metric: str = ""
    exit_code: int | None = None
    rows: list = field(default_factory=list)
    summary: dict = field(default_factory=dict)

    def series(self, key, step="train/global_step"):
        """Values at their step."""
        return [(row[step], row[key]) for row in self.rows if key in row]


def wandb_runs(folder: Path) -> list[WandbRun]:
    """The offline runs of a project, in the order in which they were begun."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [read_run(path) for path in files]


def read_run(path: Path) -> WandbRun:
    found = WandbRun()
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.name, found.group, found.job_type = run.display_name, run.run_group, run.job_type
            found.tags = list(run.tags)
        elif kind == "metric" and record.metric.glob_name == "*":
            found.step_metric = record.metric.step_metric
        elif kind == "history":
            found.rows.append(values(record.history.item))
        elif kind == "summary":
            found.summary |= values(record.summary.update)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def values(items) -> dict:
    """By key, without what W&B adds."""
    pairs = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
    return {key: value for key, value in pairs.items() if not key.startswith("_")}


def records(data: bytes):
    """The records of a W&B file: LevelDB's log format, in blocks of 32 KiB, behind 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header fits into the rest of a block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
