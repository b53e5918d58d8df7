"""Several processes of one command on this machine, as torchrun starts them."""

import os
import sys
from collections.abc import Sequence

import typer


def launch(num_processes: int, arguments: Sequence[str]) -> None:
    """Run ``cadmllm <arguments>`` in so many processes that find each other; their exit code is this command's.

    A signal goes on to all of them, and they finish the step at hand.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Cores are shared out; torchrun would give each process one.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "stages.cli", *arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        raise typer.Exit(code if code > 0 else 1) from None
    except SignalException:
        raise typer.Exit(130) from None
