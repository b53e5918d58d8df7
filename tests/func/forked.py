"""``cadmllm`` or DVC as a process of its own, forked from one that has imported what takes seconds.

It is watched, signalled and killed as any other. What torchrun or a script starts, or a DVC that is to be killed, is
started as users start it.

It works in a project's copy, with the variables that it is given, but runs the code of this checkout (``ROOT``): a test
that edits a copy's ``pipeline/`` or ``stages/`` changes what DVC sees, not what is done. Variables that a module reads
when it is imported (``OMP_NUM_THREADS``, ``HF_HUB_OFFLINE``) are those of the process that it is forked from.
"""

import contextlib
import faulthandler
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.runtime.interrupt import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = (
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
    "pipeline.evaluation.robustness",
    "pipeline.evaluation.transfer",
    "pipeline.features.build",
    "pipeline.generation.pretrained",
    "pipeline.pretraining.language",
    "pipeline.report.build",
    "pipeline.training.session",
    "pipeline.weights.resolve",
    "transformers.models.dinov2.modeling_dinov2",
    "transformers.models.llama.modeling_llama",
    "wandb.sdk.launch",
    "webdataset",
)


class Forked:
    """One command, ``cadmllm`` or ``dvc``: as much of ``Popen`` as tests use."""

    def __init__(self, args: tuple[str, ...], folder: Path, env: dict[str, str]) -> None:
        self.returncode: int | None = None
        self._exit = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._exit.connect(f"\0{_server()[0]}")
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lasts as long as the process
        socket.send_fds(self._exit, [json.dumps([args, str(folder), env]).encode()], [self._output.fileno()])
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


def for_dvc(path: str) -> dict[str, str]:
    """Variables with which the stages that DVC starts are forked, too."""
    return {"PATH": f"{Path(__file__).with_name('bin')}:{path}", "CADMLLM_FORKS": _server()[0]}


@functools.cache
def _server() -> tuple[str, subprocess.Popen[bytes]]:
    """The name of the socket where commands are asked for, and the process that forks them; it ends with this one."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as requests:
        requests.bind("")  # a name that the kernel finds, of no file
        requests.listen()
        command = (sys.executable, __file__, str(requests.fileno()))
        server = subprocess.Popen(command, pass_fds=[requests.fileno()], env=env, stdin=subprocess.DEVNULL)
        return requests.getsockname().decode()[1:], server


def _serve(requests: socket.socket) -> None:
    """Fork for each request. Returns in the process that is the command."""
    while True:
        asked, _ = requests.accept()
        message, (output,), *_ = socket.recv_fds(asked, 1 << 20, 1)
        if os.fork() == 0:
            requests.close()
            return _become(*json.loads(message), asked, output)
        asked.close()
        os.close(output)


def _become(args: list[str], folder: str, env: dict[str, str], asked: socket.socket, output: int) -> None:
    """Fork again: the parent waits, to tell how the command ended, which the child is from here on."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if child := os.fork():
        os.close(output)
        with contextlib.suppress(BrokenPipeError):  # who asked is gone
            asked.send(str(child).encode())
            asked.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
    asked.close()
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    faulthandler.enable()  # a crash says where
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = args


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait need not be waited for
    _serve(socket.socket(fileno=int(sys.argv[1])))
    if sys.argv[0] == "dvc":
        from dvc.cli import main

        sys.exit(main())
    from stages.cli import app

    app(prog_name="cadmllm")
