"""A curriculum in Weights & Biases, under the curriculum document's names. The only module that imports wandb.

An experiment is a group; in it each stage is a job type, and so is ``evaluate``. All of them have one step axis: the
optimizer steps since the language model that the curriculum began with. The truth is in the stages' logs and metrics.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.curriculum.log import Line, read_log
from pipeline.curriculum.retention import lineage_chain, text_retention
from pipeline.curriculum.schedule import validation_objective
from pipeline.curriculum.settings import MODALITIES, CurriculumStage
from pipeline.model.checkpoint_folder import LOG
from pipeline.runtime.atomic import write_text
from pipeline.runtime.errors import UserError
from pipeline.training.settings import TrackedSections

if TYPE_CHECKING:
    from pipeline.training.parallel import Parallel

STEP = "train/global_step"
NOT_TRAINED_ON = {"preset", "evaluation", "robustness", "transfer", "tracking", "pretraining"}
EVALUATE = "evaluate"
SPEED = "speed.jsonl"
ROLLOUTS = ("reward", "iou", "valid", "spread", "tokens", "policy_loss")  # of a line, where programs are written
UNWRITTEN = "wandb.json"  # in scratch: the end of an attempt whose offline run is still to be written


def experiment(p: TrackedSections) -> str:
    """The group: DVC's name of the experiment, else one of all parameters that training depends on, as written."""
    if name := os.environ.get("DVC_EXP_NAME"):
        return name
    document = json.dumps({key: p.document[key] for key in p.document.keys() - NOT_TRAINED_ON}, sort_keys=True)
    return f"{p.preset}-{hashlib.sha256(document.encode()).hexdigest()[:8]}"


def steps_of(lineage: dict[str, Any] | None) -> int:
    """Optimizer steps from the language model to a checkpoint; one of an earlier version does not tell its own."""
    return sum(each.get("steps", 0) for each in lineage_chain(lineage)) if lineage else 0


@contextmanager
def wandb_imported() -> Iterator[Any]:
    """The package, quiet.

    Raises:
        UserError: it cannot do what the block asks of it.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        yield wandb
    except wandb.Error as error:
        raise UserError(
            f"Weights & Biases: {error}\nMend that, or set tracking.wandb_mode to offline or disabled"
        ) from error


@contextmanager
def spared(say: Callable[[str], None], later: str = "") -> Iterator[None]:
    """Around the telling of an end: a fault of W&B costs a note, never the work that is told of.

    Args:
        later: what becomes of it.
    """
    try:
        yield
    except Exception as fault:
        say(f"note: Weights & Biases was not told of this end ({type(fault).__name__}: {fault}){later}")


def open_run(p: TrackedSections, name: str, job_type: str, tags: Iterable[str], **settings: Any) -> Any:
    """A run in the experiment's group."""
    with wandb_imported() as wandb:
        run = wandb.init(
            project=p.tracking.wandb_project,
            entity=p.tracking.wandb_entity,
            mode=p.tracking.wandb_mode,
            group=experiment(p),
            job_type=job_type,
            name=name,
            tags=list(tags),
            config=p.with_document(),
            **settings,
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
    return run


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt at a stage ended, as its run's summary says it.

    Attributes:
        state: finished, stopped (by a signal, in good order), failed or killed.
        reason: why it did not finish.
        step: optimizer steps of the stage done.
    """

    state: str
    reason: str
    exit_code: int
    step: int = 0

    @classmethod
    def by(cls, error: BaseException, fault: str, step: int) -> "End":
        """That of an attempt which an error ended: in the end a fault of some process, or none if it was stopped."""
        return cls("failed", fault, 1, step) if fault else cls("stopped", str(error), 130, step)


KILLED = End("killed", "without a word: by SIGKILL, or with the machine", 137)


class Mirror:
    """The run of a stage, around the work on it.

    Online it follows the log line by line, and a stage that goes on goes on in the same run. An offline run cannot be
    resumed (W&B would start a second one), so each attempt is a run of its own, written when it ends, however it ends:
    all of the log until then. What was killed could write nothing; the next attempt does, before its own work.

    Args:
        stage_name: of a stage of the curriculum.
        scratch: the stage's: its log, that of its speed, and what is known of an attempt that was killed.
        ancestors: lineage of the checkpoint that the stage starts from; None for the language model.
        say: told where a run could not be written.
        parallel: the processes that train; the first of them writes.

    Attributes:
        step: optimizer steps of the stage done, for its end.
    """

    def __init__(
        self,
        p: TrackedSections,
        stage_name: str,
        scratch: Path,
        ancestors: dict[str, Any] | None,
        say: Callable[[str], None],
        parallel: "Parallel",
    ) -> None:
        self.p, self.stage_name, self.scratch, self.ancestors, self.say = p, stage_name, scratch, ancestors, say
        self.parallel = parallel
        self.mode = p.tracking.wandb_mode if parallel.is_main else "disabled"
        self.stage, self.unwritten = p.curriculum[stage_name], scratch / UNWRITTEN
        self.number, self.offset = list(p.curriculum).index(stage_name) + 1, steps_of(ancestors)
        self.step = 0
        self._run: Any = None
        self._sent = -1
        self._finished = False

    def __enter__(self) -> Self:
        if self.mode == "online":
            self._run = self._open(id=self.scratch.name, resume="allow")
            self._sent = int(self._run.summary.get("train/step", -1))
            self._run.summary.update({"end/state": "running", "end/reason": ""})  # what it is not yet, or no longer
        elif self.mode == "offline":
            with wandb_imported() as wandb:
                wandb.setup()  # what writes runs is there before memory can run out
            if self.unwritten.is_file():
                self._close(End(**json.loads(self.unwritten.read_text(encoding="utf-8"))))
            self._note(KILLED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run of a stage that has not finished. Its error is what the user is told, whatever W&B says."""
        if error is None or self._finished or self.mode == "disabled":
            return
        end = End.by(error, self.parallel.first_fault(error), self.step)
        with spared(self.say, "; it is written when the stage is started again" * (self.mode == "offline")):
            if self.mode == "offline":
                self._note(end)
            self._close(end)

    def __call__(self, line: Line) -> None:
        """Send one line, where they are sent as they come; those that a resumed run has already are left out."""
        if self._run is not None and line["step"] >= self._sent:
            self._run.log(self.row(line))

    def finish(self, figures: dict[str, Any]) -> None:
        """Close the run of a stage whose checkpoint is published, with its figures in the summary."""
        self._finished = True
        if self.mode != "disabled":
            numbers = {key: value for key, value in figures.items() if isinstance(value, (int, float))}
            with spared(self.say):
                self._close(End("finished", "", 0, self.step), numbers)

    def row(self, line: Line) -> dict[str, Any]:
        """A line under the document's names, and what validation losses mean for the stage."""
        row = {STEP: self.offset + line["step"], **stage_row(line, self.stage_name, self.number, self.stage)}
        if line["event"] == "validation":
            row["validation/objective"] = validation_objective(self.stage, line)
            retention = text_retention({"validation": line["loss"], "parent": self.ancestors})
            if retention is not None:
                row["validation/retention_text"] = retention
        return row

    def _open(self, **settings: Any) -> Any:
        return open_run(self.p, self.stage_name, self.stage_name, (self.stage_name, *self.stage.modalities), **settings)

    def _note(self, end: End) -> None:
        write_text(self.unwritten, json.dumps(asdict(end)))

    def _close(self, end: End, figures: dict[str, Any] | None = None) -> None:
        files = [file for file in (self.scratch / LOG, self.scratch / SPEED) if file.is_file()]
        lines = sorted((line for file in files for line in read_log(file)), key=lambda line: line["step"])
        run = self._run
        if run is None:
            run = self._open()
            for line in lines:
                run.log(self.row(line))
        step = max([end.step, *(line["step"] for line in lines)])
        ended = {f"end/{key}": value for key, value in asdict(end).items()} | {"end/step": step}
        run.summary.update({**self._best(lines), **(figures or {}), **ended})
        run.finish(exit_code=end.exit_code)
        self._run = None
        self.unwritten.unlink(missing_ok=True)

    def _best(self, lines: Iterable[Line]) -> dict[str, float]:
        """What the best validation after the start was, and the last one's retention."""
        rows = [(line, self.row(line)) for line in lines if line["event"] == "validation"]
        if len(rows) < 2:
            return {}
        line, row = min(rows[1:], key=lambda each: each[1]["validation/objective"])
        found = {"best_objective": row["validation/objective"], "best_epoch": line["epochs"]}
        last = rows[-1][1].get("validation/retention_text")
        return found if last is None else {**found, "retention_text": last}


def stage_row(line: Line, stage_name: str, stage_number: int, stage: CurriculumStage) -> dict[str, Any]:
    """A line of a log under the document's names."""
    row: dict[str, Any] = {"train/step": line["step"]}
    if line["event"] == "train":
        row |= {
            "train/loss": line["loss"],
            "train/stage": stage_number,
            "train/learning_rate": line["lr"],
            "train/grad_norm": line["grad_norm"],
        }
        row |= {f"rollouts/{name}": line[name] for name in ROLLOUTS if name in line}
        row |= {f"train/active_modalities/{m}": float(m in stage.modalities) for m in MODALITIES}
        row |= {f"train/learning_rate/{name}": rate for name, rate in line["learning_rates"].items()}
        row |= {f"train/combination/{name}": share for name, share in line["combinations"].items()}
        row |= {f"train/intended/{name}": share for name, share in line["intended"].items()}
        row |= {f"train/target_share/{name}": share for name, share in line["target_shares"].items()}
    elif line["event"] == "epoch":
        row |= {f"epoch/{stage_name}_loss": line["loss"], "epoch/epoch": line["epoch"]}
    elif line["event"] == "validation":
        row |= {f"validation/{name}_loss": loss for name, loss in line["loss"].items()}
        row |= {f"validation/{name}_reward": reward for name, reward in line.get("reward", {}).items()}
    elif line["event"] == "speed":
        row |= {f"speed/{name}": value for name, value in line.items() if name not in ("event", "step")}
    return row


def mirror_evaluation(
    p: TrackedSections, stage_name: str, lineage: dict[str, Any], figures: dict[str, Any], say: Callable[[str], None]
) -> None:
    """A run of job type ``evaluate``: one point, at the checkpoint's step, which is the summary too.

    A run of its own, since an offline run of the stage could not be added to once it is closed.

    Args:
        lineage: of the checkpoint.
        figures: of ``evaluate``, which is published.
        say: told where the run could not be written.
    """
    if p.tracking.wandb_mode == "disabled":
        return
    row = {STEP: steps_of(lineage), "train/stage": list(p.curriculum).index(stage_name) + 1}
    for name, found in figures["combinations"].items():
        row |= {
            f"evaluate/{name}_loss": found["validation_loss"],
            f"evaluate/{name}_valid_rate": found["valid_rate"],
            f"evaluate/{name}_chamfer_median": found["metrics"]["chamfer_l1_mean"]["median"],
            f"evaluate/{name}_iou_mean": found["metrics"]["volumetric_iou"]["mean"],
        }
    for name, found in figures.get("conditioning", {}).items():
        row[f"evaluate/conditioning_{name}"] = found["ratio"]
    with spared(say):
        run = open_run(p, f"evaluate {stage_name}", EVALUATE, (stage_name, EVALUATE))
        run.log({key: value for key, value in row.items() if value is not None})
        run.finish()
