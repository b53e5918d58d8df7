"""The real models that ``transfer`` measures on: where they are, and whether they are others than training's."""

import os
from itertools import islice
from pathlib import Path

from pipeline.cad.language.settings import Codec
from pipeline.cad.omnicad.dataset import Dataset, open_dataset
from pipeline.cad.omnicad.raw_files import NoDatasetError
from pipeline.corpus.settings import Data
from pipeline.evaluation.settings import Transfer
from pipeline.evaluation.setup import EvaluateSections
from pipeline.features.settings import Features
from pipeline.geometry.settings import Geometry
from pipeline.runtime.errors import UserError


class TransferSections(EvaluateSections):
    """What ``transfer`` reads."""

    data: Data
    codec: Codec
    geometry: Geometry
    features: Features
    transfer: Transfer


def real_path(p: TransferSections) -> Path:
    """Where the real models of ``transfer.path`` are: of what lies there, Omni-CAD is taken first."""
    place = Path(p.transfer.path)
    named = (place / name for name in ("Omni-CAD", "Omni-CAD.zip"))
    return next((path for path in named if os.path.lexists(path)), place)


def real_version(p: TransferSections) -> str:
    """Sha256 that changes with the models that are measured."""
    dataset = Dataset(real_path(p).absolute())
    return dataset.version(islice(dataset.listing(), p.transfer.limit))


def no_real_models(p: TransferSections) -> str | None:
    """Why nothing can be measured on the models at ``transfer.path``; None where it can."""
    place = f"transfer.path ({p.transfer.path})"
    try:
        root = open_dataset(real_path(p).absolute()).root
    except UserError as error:
        if not isinstance(error, NoDatasetError) or real_path(p) != Path(p.transfer.path):
            # Without where the project lies: the report is the same wherever that is.
            return f"{place}: {str(error).replace(f'{Path.cwd()}/', '')}"
        if p.data.source == "omnicad":
            own = "the curriculum is trained on real models, and its own test split measured after each stage"
            return f"{own}; {place} holds no others"
        return f"{place} holds no Omni-CAD"
    if p.data.source == "omnicad" and root.samefile(open_dataset(Path(p.data.path).absolute()).root):
        return f"{place} is what the curriculum is trained on: its test split is measured after each stage"
    return None
