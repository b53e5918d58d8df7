"""One schedule, run: a copy of the project, its faults, restarts until all is done, and the comparison."""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.faults.base import Fault
from tests.faults.disks import HUGE
from tests.faults.elsewhere import SHARDS, Bucket, cluster
from tests.faults.faults import FAULTS
from tests.faults.processes import roles
from tests.faults.project import CHANGES, STAGES, Reference, Stage, copy_before, digest, leftovers, remove
from tests.faults.schedule import Planned, Schedule
from tests.faults.watcher import Watcher
from tests.func.conftest import Project
from tests.func.forked import Forked, for_dvc
from tests.func.raylets import Raylets

T = TypeVar("T")
PATIENCE_S = 240.0  # for one attempt: a store that is gone is tried for minutes, where the machine has other work
ENDING_S = 20.0  # for what a command has started, to end after it
MOST = 12  # attempts at one command
OLD = "what an older run has published\n"


@dataclass
class Attempt:
    """One start of a command with a fault, for the fault to act on."""

    run: "Run"
    stages: tuple[Stage, ...]
    command: tuple[str, ...]
    planned: Planned
    env: dict[str, str] = field(default_factory=dict)
    process: Any = None
    again: bool = False

    @property
    def folder(self) -> Path:
        """The project's."""
        return self.run.folder

    @property
    def number(self) -> int:
        """Of the first stage, in ``STAGES``."""
        return STAGES.index(self.stages[0])

    @property
    def bucket(self) -> Bucket:
        """Where the project's shards are."""
        assert self.run.bucket is not None, "a fault that needs one has it"
        return self.run.bucket

    @property
    def cluster(self) -> Raylets:
        """Two machines that can work."""
        return cluster()

    def chosen(self, among: list[T]) -> T | None:
        """The one that the schedule means; None where there is none."""
        return among[min(int(self.planned.where * len(among)), len(among) - 1)] if among else None

    def processes(self, role: str) -> list[int]:
        """Processes of a role."""
        return sorted(pid for pid, found in roles(self.folder) if found == role)

    def signal_stage(self, signum: int) -> bool:
        """Send the stage's process a signal, also where DVC has started it."""
        pids = [self.process.pid]
        if self.run.schedule.by_dvc:
            pids = [pid for pid in self.processes("stage") if pid != self.process.pid]
        for pid in pids:
            if self.process.poll() is None:
                os.kill(pid, signum)
        return bool(pids)

    def start_another(self) -> Forked:
        """The same command once more."""
        return self.run.start(self.command, self.env)

    def change(self, old: str, new: str) -> None:
        """Edit params.yaml."""
        self.run.project.change(old, new)

    def note(self, text: str) -> None:
        """What exactly the fault did."""
        self.run.notes.append(f"{self.planned.kind}: {text}")

    def wrong(self, text: str) -> None:
        """What must not be."""
        self.run.wrong.append(text)

    def allow_changed(self) -> None:
        """Outs may be those of changed data."""
        for out, found in self.run.reference.changed[self.stages[0].name].items():
            self.run.watcher.may_be[out].add(found)

    def allow_any(self) -> None:
        """Outs may be those of whatever the data were."""
        for stage in self.stages:
            for out in stage.outs:
                self.run.watcher.may_be[out] = _Anything()

    def spare_watching(self, path: Path, spared: bool) -> None:
        """Let the out that a path lies in be anything, or no longer: the fault itself changes it."""
        for out in self.run.watcher.may_be:
            if path.is_relative_to(self.folder / out):
                self.run.watcher.may_be[out] = _Anything() if spared else {self.run.reference.digests[out]}


class _Anything(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


class Run:
    """A schedule at work in a disk of its own.

    Attributes:
        wrong: what must not be, in the order in which it was found; empty where all holds.
        attempts: of each start its exit code, the fault, whether that struck, and the last line that it said.
    """

    def __init__(self, schedule: Schedule, reference: Reference, work: Path, mounts: bool) -> None:
        self.schedule, self.reference, self.mounts = schedule, reference, mounts
        self.wrong: list[str] = []
        self.notes: list[str] = []
        self.attempts: list[dict[str, Any]] = []
        self.data_are_changed = False
        self.bucket: Bucket | None = None
        self.disk = work / f"disk-{os.getpid()}"
        self.folder = self.disk / "project"
        self.stages = STAGES[schedule.first : schedule.first + schedule.count]

    def result(self) -> dict[str, Any]:
        """Run it; what happened."""
        begun = time.monotonic()
        self.disk.mkdir(parents=True, exist_ok=True)
        if self.mounts:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={HUGE}", "faults", str(self.disk)], check=True)
        try:
            self._prepare()
            with self.watcher:
                self._run_all()
        except Exception as error:  # a fault of this test, too, is to be seen
            self.wrong.append(f"{type(error).__name__}: {error}")
        finally:
            self._end_processes()
            if self.bucket:
                self.bucket.close()
            if self.mounts:
                subprocess.run(["umount", "-l", str(self.disk)], check=True)
            shutil.rmtree(self.disk, ignore_errors=True)
        return {
            "seed": self.schedule.seed,
            "stages": [stage.name for stage in self.stages],
            "faults": [f"{each.kind} {each.trigger} {each.at:.2f} {each.where:.2f}" for each in self.schedule.faults],
            "by_dvc": self.schedule.by_dvc,
            "over": self.schedule.over,
            "survived": not self.wrong,
            "wrong": self.wrong,
            "notes": self.notes,
            "attempts": self.attempts,
            "seconds": round(time.monotonic() - begun, 1),
        }

    def _prepare(self) -> None:
        copy_before(self.reference.folder, self.folder, self.schedule.first)
        (self.disk / "tmp").mkdir()
        self.project = Project(self.folder)
        self.project.env |= {
            "TMPDIR": str(self.disk / "tmp"),
            "DVC_SITE_CACHE_DIR": str(self.disk / "dvc"),
            "CADMLLM_WORKERS": "2",
        }
        if any(FAULTS[planned.kind].needs == "bucket" for planned in self.schedule.faults):
            self._use_bucket()
        may_be: dict[str, set[str]] = {out: {self.reference.digests[out]} for out in self._outs()}
        if self.schedule.over:
            for out, allowed in may_be.items():
                self._put_older(out)
                allowed.add(digest(self.folder / out))
        self.watcher = Watcher(self.folder, may_be)

    def _use_bucket(self) -> None:
        """All shards, those that there are and those that will be, are in object storage."""
        self.bucket = Bucket()
        self.project.env |= self.bucket.env
        self.project.change("shards: null", f"shards: {self.bucket.url}")
        for folder in SHARDS:
            if (self.folder / folder).is_dir():
                self.bucket.take(self.folder / folder)

    def _outs(self) -> list[str]:
        return [out for stage in self.stages for out in stage.outs]

    def _put_older(self, out: str) -> None:
        """What a run with other parameters would have left there."""
        source, target = self.reference.folder / out, self.folder / out
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
            (target / "older.txt").write_text(OLD)
        else:
            target.write_text(OLD)

    def start(self, command: tuple[str, ...], env: dict[str, str]) -> Forked:
        """A command, or DVC, forked."""
        if command[0] == "dvc":
            return Forked(command, self.folder, {**self.project.env, **for_dvc(self.project.env["PATH"]), **env})
        return Forked(command, self.folder, {**self.project.env, **env})

    def _run_all(self) -> None:
        if self.schedule.by_dvc:
            names = [stage.name for stage in self.stages]
            self._run_until_done(tuple(self.stages), ("dvc", "repro", *names), list(self.schedule.faults))
        else:
            for number, stage in enumerate(self.stages):
                faults = [each for each in self.schedule.faults if each.stage == number]
                if self.bucket and stage.name == "report":  # which says where shards are to go
                    self.project.change(f"shards: {self.bucket.url}", "shards: null")
                if not self.wrong:
                    self._run_until_done((stage,), ("cadmllm", *stage.command), faults)
        self.wrong += self.watcher.wrong
        if self.wrong:
            return  # what follows from it is not told
        for out in (out for stage in STAGES[: self.schedule.first + self.schedule.count] for out in stage.outs):
            if digest(self.folder / out) != self.reference.digests[out]:
                self.wrong.append(f"{out} is not that of the quiet run")
        self.wrong += self.bucket.missing(self.folder) if self.bucket else []
        self.wrong += [f"{name} is left behind" for name in leftovers(self.folder, self._outs())]

    def _run_until_done(self, stages: tuple[Stage, ...], command: tuple[str, ...], faults: list[Planned]) -> None:
        for _ in range(MOST):
            planned = faults.pop(0) if faults else None
            if planned is not None and FAULTS[planned.kind].needs == "mounts" and not self.mounts:
                self.notes.append(f"{planned.kind} is left out: no mounts of its own")
                continue
            code, again = self._attempt(stages, command, planned)
            if self.wrong or (code == 0 and not again and not faults):
                return
        self.wrong.append(f"{' '.join(command)} has not ended well in {MOST} attempts")

    def _attempt(
        self, stages: tuple[Stage, ...], command: tuple[str, ...], planned: Planned | None
    ) -> tuple[int, bool]:
        """One start: its exit code, and whether the command is due once more whatever that is."""
        fault = Fault() if planned is None else FAULTS[planned.kind]()
        attempt = Attempt(self, stages, command, planned or Planned(0, "Fault", "time", 2.0, 0.0))
        self.watcher.begin()
        fault.before(attempt)
        attempt.process = self.start(command, attempt.env)
        struck = self._strike(fault, attempt) if planned is not None else False
        try:
            output = attempt.process.communicate(timeout=PATIENCE_S)[0]
            code = attempt.process.returncode
        except TimeoutError:
            attempt.process.kill()
            output, code = attempt.process.communicate()[0], None
            self.wrong.append(f"{' '.join(command)} has not ended in {PATIENCE_S:.0f} s: {output[-300:]}")
        self._see_processes_end(fault)
        fault.after(attempt)
        self._note(attempt, planned, struck, code, output)
        self._check_message(fault, planned, code, output)
        if self.data_are_changed and code == 0:
            self._see_changed(stages[0])
            self._put_back_data(stages[0])
            return 0, True
        return code, attempt.again

    def _strike(self, fault: Fault, attempt: Attempt) -> bool:
        """Wait for the fault's moment, and let it strike; False where the command ended before."""
        planned, begun = attempt.planned, time.monotonic()
        quiet = sum(self.reference.seconds[stage.name] for stage in attempt.stages)
        struck = False
        while not struck and attempt.process.poll() is None and time.monotonic() - begun < PATIENCE_S:
            due = {
                "time": time.monotonic() - begun >= planned.at * quiet,
                "files": len(self.watcher.seen) >= planned.at,
                "publishing": self.watcher.published >= planned.at,
            }[planned.trigger]
            struck = due and fault.strike(attempt)
            time.sleep(0.002)
        return struck

    def _see_processes_end(self, fault: Fault) -> None:
        """What the command has started ends with it."""
        deadline = time.monotonic() + ENDING_S
        while (left := list(roles(self.folder))) and time.monotonic() < deadline:
            time.sleep(0.02)
        if left:
            self.wrong.append(f"processes are left: {left}")

    def _note(self, attempt: Attempt, planned: Planned | None, struck: bool, code: int | None, output: str) -> None:
        lines = [line for line in output.splitlines() if line.strip()]
        told = next((line for line in lines if line.startswith(("error:", "stopped by"))), lines[-1] if lines else "")
        kind = "" if planned is None else planned.kind
        stage = " ".join(attempt.command[1:])
        self.attempts.append({"of": stage, "fault": kind, "struck": struck, "code": code, "said": told[:300]})

    def _check_message(self, fault: Fault, planned: Planned | None, code: int | None, output: str) -> None:
        """One line, which names the cause; nothing a user cannot read."""
        if "Traceback" in output or "╭" in output or "Exception ignored" in output:
            self.wrong.append(f"a traceback: {output[-1500:]}")
        elif code not in (0, None):
            if self.schedule.by_dvc:
                known = bool(fault.codes)
            else:
                known = code in fault.codes
                if code == 1 and output.count("error:") != 1:
                    self.wrong.append(f"not one message: {output[-600:]}")
                if code == 130 and not re.search(r"stopped by SIG\w+; what is finished is kept. Go on with: ", output):
                    self.wrong.append(f"a stop without its message: {output[-600:]}")
            if code == 1 and 1 in fault.codes and not re.search(fault.says, output):
                self.wrong.append(f"the message does not name the cause: {output[-600:]}")
            if planned is None and code == 1 and (told := re.search(r"; remove (\S+?),? (?:and|to) ", output)):
                self.notes.append(f"done as told: {told[1]} is removed")
                remove(self.folder / told[1])
            elif not known:
                self.wrong.append(f"exit code {code} after {planned.kind if planned else 'no fault'}: {output[-600:]}")

    def _see_changed(self, stage: Stage) -> None:
        """The outs are those of the data as they are by now."""
        for out, expected in self.reference.changed[stage.name].items():
            if digest(self.folder / out) != expected:
                self.wrong.append(f"{out} is not that of the data as they are at the end")

    def _put_back_data(self, stage: Stage) -> None:
        data, self.data_are_changed = CHANGES[stage.name][0], False
        remove(self.folder / data)
        shutil.copytree(self.reference.folder / data, self.folder / data)

    def _end_processes(self) -> None:
        for pid, _ in roles(self.folder):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
