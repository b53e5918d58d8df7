"""The ``train`` stages: one curriculum stage each, from the checkpoint of the one before."""

import os
from typing import Annotated

import typer

from pipeline.curriculum.place import find_stage
from pipeline.runtime.commands import long_running
from pipeline.training.launch import launch
from pipeline.training.settings import TrainSections


@long_running
def train(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of `curriculum` in params.yaml.")],
    nproc: Annotated[
        int,
        typer.Option(
            min=1, envvar="CADMLLM_NPROC", help="Processes on this machine that share the work: one for each GPU."
        ),
    ] = 1,
) -> None:
    """Train one curriculum stage from the checkpoint of the one before; resumes where it was interrupted.

    Several machines: start `torchrun … -m stages.cli train STAGE` on each, with the project in a folder they share.
    """
    p = TrainSections.load()
    place = find_stage(p.curriculum, name)
    if nproc > 1 and "WORLD_SIZE" not in os.environ:
        from pipeline.runtime.device import shared_device

        shared_device(p.training.device, nproc)  # once, before there are processes that would each find out
        launch(nproc, ["train", name])
        return
    from pipeline.training.parallel import Parallel

    if place.stage.objective == "geometry":
        from pipeline.reinforcement.geometry import run_stage
    else:
        from pipeline.training.session import run_stage

    with Parallel(p.training) as parallel:
        run_stage(p, place, parallel)
