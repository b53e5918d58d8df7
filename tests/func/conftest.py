"""A copy of the project with the smoke preset, and real commands run in it."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from typer.testing import CliRunner

from stages.cli import app
from tests.func.forked import Forked, for_dvc
from tests.func.served import Server

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class Project:
    """A project folder of its own: real stages as real processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "HF_HUB_OFFLINE": "1",
            "WANDB_SILENT": "true",
            "COLUMNS": "160",
            # What torch.compile has kept of a run on another processor, pretended or not, gives NaN on this one.
            "TORCHINDUCTOR_CACHE_DIR": str(folder.parent / "inductor"),
        }

    def start(self, *args: str, **env: str) -> subprocess.Popen[str] | Forked:
        env = {**self.env, **env}
        if args[0] == "cadmllm":
            return Forked(args, self.folder, env)
        return subprocess.Popen(
            args, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *args: str, code: int = 0) -> str:
        if args[0] == "dvc":  # not to be killed: see forked.py
            process = Forked(args, self.folder, {**self.env, **for_dvc(self.env["PATH"])})
        else:
            process = self.start(*args)
        output = process.communicate(timeout=600)[0]
        assert process.returncode == code, f"{' '.join(args)} exited with {process.returncode}:\n{output}"
        return output

    def call(self, *args: str, code: int = 0) -> str:
        """What a short command says; in this process, since to start one takes longer than most of them do.

        What it sets for its process it takes back.
        """
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        deterministic = torch.are_deterministic_algorithms_enabled()
        filled = torch.utils.deterministic.fill_uninitialized_memory
        with contextlib.chdir(self.folder), mock.patch.dict(os.environ):
            result = CliRunner(env=self.env).invoke(app, args)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        assert result.exit_code == code, f"{' '.join(args)} exited with {result.exit_code}:\n{result.output}"
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.output

    def change(self, old: str, new: str, after: str = "") -> None:
        """Edit params.yaml: the first `old` that follows `after`."""
        path = self.folder / "params.yaml"
        text = path.read_text()
        start = text.index(after)
        assert old in text[start:], old
        path.write_text(text[:start] + text[start:].replace(old, new, 1))

    def leave_inputs_alone(self) -> None:
        """No disturbances: what takes longest of what follows training."""
        self.change("noise: [0.02]", "noise: []")
        self.change("rotations_deg: [20]", "rotations_deg: []")

    def untracked(self) -> "Project":
        """This project, whose training is mirrored nowhere from now on."""
        self.change("wandb_mode: offline", "wandb_mode: disabled")
        return self

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def copied(self, folder: Path) -> "Project":
        """The same project in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True, copy_function=_copied)
        return Project(folder)


def _copied(source: str, target: str) -> None:
    """A copy of a file; of Git's objects, into which nobody writes, another name for the same one."""
    same = os.link if "/.git/objects/" in source else shutil.copy2
    try:
        same(source, target)
    except OSError:  # on another disk
        shutil.copy2(source, target)


def start_ranks(projects: list[Project], *command: str) -> list[Forked]:
    """One process in each project, which work together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(len(projects)), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [project.start(*command, RANK=str(rank), **world) for rank, project in enumerate(projects)]


def ranks(projects: list[Project], *command: str, code: int = 0) -> list[str]:
    """What processes that work together said."""
    processes = start_ranks(projects, *command)
    outputs = [each.communicate(timeout=240)[0] for each in processes]
    if any(each.returncode != code for each in processes):
        ended = (f"{each.returncode}:\n{output}" for each, output in zip(processes, outputs, strict=True))
        pytest.fail("\n".join(["processes exited with", *ended]))
    return outputs


def make_project(folder: Path) -> Project:
    for name in ("pipeline", "stages", "presets", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    (folder / "data/raw").mkdir(parents=True)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "data/raw/README.md"):
        shutil.copy(ROOT / name, folder / name)
    project = Project(folder)
    project.run("git", "init", "-q")
    project.call("preset", "use", "smoke")
    return project


@pytest.fixture(scope="session")
def done(tmp_path_factory, worker_id) -> Project:
    """A project after one `dvc repro`, the same for all test processes. Tests that change something work on a copy.

    Its stages are forked. CADMLLM_DONE names its folder where another process makes it, which holds the lock beside it
    until it is done: in CI that is a `dvc repro` as users start it.
    """
    base = tmp_path_factory.getbasetemp()
    here = (base if worker_id == "master" else base.parent) / "done"
    folder = Path(os.environ.get("CADMLLM_DONE", here))
    folder.mkdir(exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits for the first
        if not (folder / "report").is_dir():
            shutil.rmtree(folder)  # what a process that failed has left
            project = make_project(folder)
            project.change("wandb_mode: disabled", "wandb_mode: offline")
            project.run("dvc", "repro")
    return Project(folder)


@pytest.fixture
def tracked(done, tmp_path) -> Project:
    """The finished project, to be changed."""
    return done.copied(tmp_path / "copy")


@pytest.fixture
def copy(tracked) -> Project:
    """The same without Weights & Biases, which takes longer than most of its training."""
    return tracked.untracked()


@pytest.fixture(scope="session")
def server(done):
    """The finished project's last checkpoint, served; tests of the group ``serving`` share it."""
    server = Server(done)
    yield server
    server.close()
