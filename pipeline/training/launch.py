"""Several processes of one command on this machine, as torchrun starts them."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

import typer

from pipeline.runtime import interrupt
from pipeline.runtime.commands import COMMAND, typed
from pipeline.runtime.errors import UserError

STOP_S = 3600  # after a signal: a step of a large model, and saving it. torchrun itself kills after 30 s


def launch(num_processes: int, arguments: Sequence[str]) -> None:
    """Run ``cadmllm <arguments>`` in so many processes that find each other; their exit code is this command's.

    A signal goes on to all of them, and they finish the step at hand: within an hour, or as many seconds as
    TORCH_ELASTIC_SHUTDOWN_TIMEOUT says.

    Raises:
        UserError: one of them was killed.
    """
    interrupt.stop_at_once()  # until torchrun's own handlers are there
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[COMMAND] = typed()
    # Cores are shared out; torchrun would give each process one.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOP_S))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes speak for themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,  # a user's mistake would be told four times
    )
    try:
        elastic_launch(config, sys.executable)("-m", "stages.cli", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it could not say why
            ended = signal.Signals(-failure.exitcode)
            cause = " (the system does so where memory runs out)" if ended == signal.SIGKILL else ""
            raise UserError(f"process {rank} of {num_processes} was ended by {ended.name}{cause}") from None
        raise typer.Exit(failure.exitcode) from None
    except SignalException:
        raise typer.Exit(130) from None
