"""The checkpoint that a command is to use, and what it takes of params.yaml beside it."""

from pathlib import Path

import typer

from pipeline.cad.language.settings import Codec
from pipeline.cad.solids.settings import Kernel
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import quiet
from pipeline.runtime.scratch import SCRATCH
from pipeline.settings.computing import Device
from pipeline.settings.params import PARAMS_FILE, Sections
from pipeline.settings.places import CHECKPOINTS, SHIPPED_PARAMS

PACKAGED = Path("shipped")  # in place of a folder
HELP = f"Default: that of the last curriculum stage. `{PACKAGED}`: the package's own networks, with nothing trained."


class Beside(Sections):
    """What commands that use a checkpoint read of params.yaml."""

    codec: Codec
    kernel: Kernel
    training: Device


def say(text: str) -> None:
    """Tell the user something that is no result, unless none of that is wanted."""
    if not quiet():
        typer.echo(text, err=True)


def chosen(given: Path | None) -> tuple[Path, Beside]:
    """The checkpoint's folder, and the parameters: where there is no params.yaml, the package's own.

    Raises:
        UserError: no checkpoint is named and none is trained here, or params.yaml has faults.
    """
    if given is not None:
        return folder_of(given), Beside.load(PARAMS_FILE if PARAMS_FILE.is_file() else SHIPPED_PARAMS)
    if not PARAMS_FILE.is_file():
        raise UserError(f"{PARAMS_FILE} is not here: name a --checkpoint (`{PACKAGED}` needs no training), or go there")
    from pipeline.planning.params import Params

    p = Params.load()
    folder = CHECKPOINTS / list(p.curriculum)[-1]
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: `dvc repro` trains it, and `--checkpoint {PACKAGED}` needs no training")
    return folder, Beside.parse(p.document, str(PARAMS_FILE))


def folder_of(given: Path) -> Path:
    """A checkpoint's folder: the one given, or the package's networks as one, where it is their name alone."""
    if given != PACKAGED or given.is_dir():
        return given
    from pipeline.exporting.shipped import shipped_checkpoint

    return shipped_checkpoint(SCRATCH, say)
