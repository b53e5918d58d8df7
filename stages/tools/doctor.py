"""``cadmllm doctor``: what this machine has, and whether the chosen preset fits it."""

import ctypes
import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.runtime.commands import color, command
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from pipeline.planning.params import Params

SYSTEM_LIBRARIES = {"libGL.so.1": "libgl1", "libX11.so.6": "libx11-6"}
PACKAGES = ("torch", "transformers", "peft", "accelerate", "dvc", "webdataset", "wandb", "cadquery-ocp-novtk")
GIB = 1 << 30
# An upper estimate for a step in float32: the default preset is told 3.5 GiB and its largest process takes 1.9.
ACTIVATION_SHARE = 3.0


def missing_libraries() -> list[str]:
    """Debian packages with the system libraries that the CAD kernel's wheel links and this machine lacks."""
    missing = []
    for library, package in SYSTEM_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(package)
    return missing


@command
def doctor(
    preset: Annotated[bool, typer.Option(help="Also check whether params.yaml fits this machine.")] = True,
) -> None:
    """Check Python, packages, system libraries, memory, disk and GPU, and whether params.yaml fits this machine."""
    faults: list[str] = []
    typer.echo(f"python        {platform.python_version()} on {platform.machine()}")
    if not (3, 11) <= sys.version_info < (3, 13):
        faults.append("Python 3.11 or 3.12 is needed")
    if missing := missing_libraries():
        faults.append(f"the CAD kernel needs system libraries: apt-get install -y {' '.join(missing)}")
    typer.echo(f"libraries     {'missing: ' + ', '.join(missing) if missing else 'libGL and libX11 are there'}")
    for package in PACKAGES:
        try:
            typer.echo(f"{package:13} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{package} is not installed")
    cores, memory, disk = len(os.sched_getaffinity(0)), memory_bytes(), shutil.disk_usage(".").free
    typer.echo(f"machine       {cores} cores, {memory / GIB:.0f} GiB memory, {disk / GIB:.0f} GiB free disk")
    gpu_bytes = _gpu()
    if disk < 5 * GIB:
        faults.append(f"{disk / GIB:.1f} GiB of disk are free; 5 are needed for the default preset")
    try:
        if preset:
            from pipeline.planning.params import Params

            p = Params.load()
            faults += fit(p, memory, gpu_bytes)
            for note in unpinned(p):
                typer.echo(f"note: {note}")
    except UserError as error:
        faults.append(str(error))
    for fault in faults:
        typer.secho(f"problem: {fault}", fg=color("red"))
    if faults:
        raise typer.Exit(1)
    typer.echo("all is well")


def memory_bytes() -> int:
    """Memory of this machine, or the limit of its container where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        return min(total, int(limit)) if limit.isdigit() else total
    except OSError:
        return total


def _gpu() -> int:
    import torch

    if not torch.cuda.is_available():
        typer.echo("gpu           none: everything runs on the CPU")
        return 0
    properties = torch.cuda.get_device_properties(0)
    typer.echo(
        f"gpu           {torch.cuda.device_count()} x {properties.name}, {properties.total_memory / GIB:.0f} GiB"
    )
    return int(properties.total_memory)


def unpinned(p: "Params") -> list[str]:
    """Models that may be others tomorrow."""
    return [
        f"models.{name}: {model.source} is not pinned: its revision is {model.revision or 'the latest'}, not a commit"
        for name in type(p.models).model_fields
        if not (model := getattr(p.models, name)).pinned
    ]


def fit(p: "Params", memory: int, gpu: int) -> list[str]:
    """What of the parameters this machine cannot do."""
    from pipeline.planning.sizes import llm_sizes

    faults = []
    parameters = llm_sizes(p.models.llm).parameters
    if parameters:
        bytes_each = 4 if p.training.dtype == "float32" else 2
        need = parameters * bytes_each * (1 if bytes_each == 2 else ACTIVATION_SHARE) + 2 * GIB
        on_gpu = gpu > 0 and p.training.device != "cpu"
        where, have = ("GPU", gpu) if on_gpu else ("main", memory)
        size = f"{parameters / 1e6:.0f}M parameters"
        typer.echo(
            f"preset        {p.preset}: a language model of {size}, about {need / GIB:.1f} GiB of {where} memory"
        )
        if need > have:
            gib = f"{need / GIB:.1f} GiB of {where} memory, there are {have / GIB:.1f} GiB"
            faults.append(f"the preset {p.preset} needs about {gib}")
        if parameters > 4e8 and not on_gpu:
            faults.append(f"the preset {p.preset} trains a model of {size}: without a GPU that takes days")
    if p.training.device == "cuda" and not gpu:
        faults.append("training.device is cuda, but there is no CUDA device")
    return [*faults, *missing_inputs(p)]


def missing_inputs(p: "Params") -> list[str]:
    """What params.yaml names and is not there; else what reads it would find out, maybe hours later."""
    from pipeline.cad.parts.synthesis import check_families
    from pipeline.weights.resolve import local_source

    faults = []
    if p.data.source == "omnicad" and not Path(p.data.path).exists():
        faults.append(f"data.path: {p.data.path} does not exist; put Omni-CAD there")
    elif p.data.source == "omnicad" and Path(p.data.path).suffix == ".md":
        faults.append(f"data.path: {p.data.path} is no dataset; data/raw/Omni-CAD, say, once it is there")
    if not Path(p.transfer.path).exists():
        faults.append(f"transfer.path: {p.transfer.path} does not exist; data/raw where nothing is to be measured")
    if p.data.source == "synthetic":
        try:
            check_families((*p.data.synthetic.families, *p.data.synthetic.unseen_families))
        except UserError as error:
            faults.append(str(error))
    for name in type(p.models).model_fields:
        try:
            path = local_source(getattr(p.models, name).source)
            if path is not None and not path.exists():
                faults.append(f"models.{name}: {path} does not exist")
        except UserError as error:
            faults.append(f"models.{name}: {error}")
    return faults
