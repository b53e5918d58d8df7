"""The one reader of safetensors; and do given tensors fit a model? Told by name, before anything is loaded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.runtime.errors import TOLD, UserError, system_error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by name.

    Raises:
        UserError: it is damaged.
    """
    with damage_told(path):
        loaded: dict[str, Tensor] = load_file(path)
    return loaded


@contextmanager
def damage_told(place: Path) -> Iterator[None]:
    """Around a library that reads safetensors.

    Args:
        place: the file or folder that it reads.

    Raises:
        UserError: what is there is damaged.
    """
    try:
        yield
    except SafetensorError as error:
        if system_error(error) in TOLD:  # of the disk, not of the file
            raise
        raise UserError(f"{place} is damaged: {error}") from error


def check_fit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], place: str, what: str) -> None:
    """Compare names and shapes.

    Args:
        own: the model's tensors.
        given: those that are to take their place.
        place: the file that they come from, for the message.
        what: the model, for the message.

    Raises:
        UserError: a tensor is missing, not known, or of another shape.
    """
    faults = [f"{key} is missing" for key in own if key not in given]
    faults += [f"{key} is not known" for key in given if key not in own]
    faults += [
        f"{key} is {list(given[key].shape)}, not {list(value.shape)}"
        for key, value in own.items()
        if key in given and given[key].shape != value.shape
    ]
    if faults:
        raise UserError(f"{place} does not fit {what}: {'; '.join(faults[:8])}")
