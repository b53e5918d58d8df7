"""``cadmllm`` or DVC as a process of its own, forked from one that has imported what takes seconds.

It is watched, signalled and killed as any other. The fork servers that its sandboxes start are forked, too, from a
process that has imported the kernel. What torchrun or a script starts, or a DVC that is to be killed, is started as
users start it.

It works in a project's copy, with the variables that it is given, but runs the code of this checkout (``ROOT``): a test
that edits a copy's ``pipeline/`` or ``stages/`` changes what DVC sees, not what is done. Variables that a module reads
when it is imported (``OMP_NUM_THREADS``, ``HF_HUB_OFFLINE``) are those of the process that it is forked from.
"""

import contextlib
import errno
import faulthandler
import functools
import gc
import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil

from pipeline.runtime.fingerprint import import_closure

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(__file__).with_name("bin")
COMMANDS = (
    "dulwich.ignore",
    "dvc.cli.parser",
    "dvc.repo.open_repo",
    "dvc.repo.plots",
    "dvc.repo.reproduce",
    "dvc.repo.stage",
    "dvc.stage.run",
    "dvc_data.hashfile.db.local",
    "matplotlib.pyplot",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",  # imported by wandb.init, as wandb.sdk.launch is
    "peft",
    "pipeline.evaluation.robustness",
    "pipeline.evaluation.transfer",
    "pipeline.features.build",
    "pipeline.generation.pretrained",
    "pipeline.model.packing",
    "pipeline.model.quantization",
    "pipeline.pretraining.language",
    "pipeline.report.build",
    "pipeline.training.session",
    "pipeline.weights.resolve",
    "transformers.models.dinov2.modeling_dinov2",
    "transformers.models.llama.modeling_llama",
    "wandb.sdk.launch",
    "webdataset",
)
FINGERPRINTED = ("pipeline.training.session", "stages.evaluate", "stages.train")
_SERVERS: list[subprocess.Popen[bytes]] = []  # of this process; they end with those that run the tests
SANDBOXES = (
    "pipeline.cad.exchange.files",
    "pipeline.cad.exchange.scans",
    "pipeline.corpus.prepare",
    "pipeline.evaluation.disturbances",
    "pipeline.generation.search.search",
    "pipeline.generation.select",
    "pipeline.metrics.assess",
    "scipy.sparse.csgraph",
    "scipy.spatial",
    "trimesh",
)


class Forked:
    """One command, ``cadmllm`` or ``dvc``: as much of ``Popen`` as tests use."""

    def __init__(self, args: tuple[str, ...], folder: Path, env: dict[str, str]) -> None:
        self.returncode: int | None = None
        self._exit = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._exit.connect(f"\0{_server('commands')}")
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lasts as long as the process
        socket.send_fds(self._exit, [json.dumps([args, str(folder), env]).encode()], [self._output.fileno()] * 2)
        self.pid = int(self._exit.recv(32))

    def poll(self) -> int | None:
        with contextlib.suppress(BlockingIOError):
            self._wait(0)
        return self.returncode

    def said(self) -> str:
        """What it has said so far."""
        return os.pread(self._output.fileno(), 1 << 20, 0).decode()

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it said until its end; ``TimeoutError`` where that is too late."""
        self._wait(timeout)
        with self._output:
            self._output.seek(0)
            return self._output.read(), None

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, timeout: float | None) -> None:
        if self.returncode is None:
            self._exit.settimeout(timeout)
            self.returncode = int(self._exit.recv(32))
            self._exit.close()


def server_pid(kind: str) -> int:
    """The process that forks: ``commands`` or ``sandboxes``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.connect(f"\0{_server(kind)}")
        asking.send(b"pid")
        return int(asking.recv(32))


def for_dvc(path: str) -> dict[str, str]:
    """Variables with which the stages that DVC starts are forked, too."""
    return {"PATH": f"{BIN}:{path}", "CADMLLM_FORKS": _server("commands")}


@functools.cache
def _server(kind: str) -> str:
    """The name of the socket, of no file, where forks are asked for. One process forks for all that run these tests."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    run, owner = os.environ.get("PYTEST_XDIST_TESTRUNUID"), os.getppid()
    if run is None:
        run, owner = str(os.getpid()), os.getpid()
    name = f"cadmllm {run} {kind}"
    if kind == "commands":
        env["CADMLLM_SANDBOXES"] = _server("sandboxes")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as requests:
        try:
            requests.bind(f"\0{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            time.sleep(0.1)  # another process that runs tests has it, and listens by then
            return name
        requests.listen()
        command = (sys.executable, __file__, kind, str(requests.fileno()), str(owner))
        _SERVERS.append(subprocess.Popen(command, pass_fds=[requests.fileno()], env=env, stdin=subprocess.DEVNULL))
    return name


def _serve(requests: socket.socket, owner: int) -> tuple[list[Any], list[int]]:
    """Fork for each request, as long as a process is there.

    Returns in the process that is what was asked for: its arguments, and files of its own.
    """
    requests.settimeout(1)
    while True:
        try:
            asked, _ = requests.accept()
        except TimeoutError:
            if not psutil.pid_exists(owner):
                sys.exit()
            continue
        message, files, *_ = socket.recv_fds(asked, 1 << 20, 4)
        if message == b"pid":
            asked.send(str(os.getpid()).encode())
        elif os.fork() == 0:
            requests.close()
            return _become(*json.loads(message), asked, files)
        asked.close()
        for each in files:
            os.close(each)


def _become(
    args: list[Any], folder: str, env: dict[str, str], asked: socket.socket, files: list[int]
) -> tuple[list[Any], list[int]]:
    """Fork again: the parent waits, to tell how the command ended, which the child is from here on."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if child := os.fork():
        for each in files:
            os.close(each)
        with contextlib.suppress(BrokenPipeError):  # who asked is gone
            asked.send(str(child).encode())
            asked.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
    asked.close()
    for standard, given in enumerate(files[:2], 1):
        os.dup2(given, standard)
        os.close(given)
    faulthandler.enable()  # a crash says where
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    return args, files[2:]


def _let_clock_jump(after_s: float, by_s: float) -> None:
    """The time of day of this process jumps once, so long from now."""
    true, begun = time.time, time.monotonic()
    time.time = lambda: true() + by_s * (time.monotonic() - begun > after_s)


def main(kind: str, requests: str, owner: str) -> None:
    """Serve forks of a kind, and in each of these be what was asked for."""
    for name in SANDBOXES if kind == "sandboxes" else COMMANDS:
        importlib.import_module(name)
    for name in FINGERPRINTED if kind == "commands" else ():
        import_closure(name)  # which reads the source of all that it imports, and keeps what it found
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait need not be waited for
    sandboxes = os.environ.get("CADMLLM_SANDBOXES", "")
    args, files = _serve(socket.socket(fileno=int(requests)), int(owner))
    if kind == "sandboxes":
        preload, options = args
        forkserver.main(*files, preload, **options)
    os.environ["CADMLLM_SANDBOXES"] = sandboxes
    multiprocessing.set_executable(str(BIN / "forkserver"))
    sys.argv = args
    if clock := os.environ.pop("CADMLLM_CLOCK", None):
        _let_clock_jump(*map(float, clock.split()))
    if args[0] == "dvc":
        from dvc.cli import main as dvc

        sys.exit(dvc())
    from stages.cli import app
    from stages.tools import study

    if "CADMLLM_FORKS" in os.environ:
        study.COMMANDS = BIN
    app(prog_name="cadmllm")


if __name__ == "__main__":
    main(*sys.argv[1:])
