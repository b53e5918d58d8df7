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

SHIPPED = Path("shipped")
HELP = "Default: that of the last curriculum stage. `shipped`: the package's own networks, with nothing trained."


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
    if PARAMS_FILE.is_file():
        from pipeline.planning.params import Params

        p = Params.load()
        folder = given or CHECKPOINTS / list(p.curriculum)[-1]
        beside = Beside.parse(p.document, str(PARAMS_FILE))
    else:
        folder, beside = given or CHECKPOINTS, Beside.load(SHIPPED_PARAMS)
    if given is None and not folder.is_dir():
        raise UserError(f"{folder} is missing; `dvc repro` trains it, and `--checkpoint {SHIPPED}` needs no training")
    return folder if given != SHIPPED or folder.is_dir() else _shipped(), beside


def _shipped() -> Path:
    from pipeline.exporting.shipped import shipped_checkpoint

    return shipped_checkpoint(SCRATCH, say)
