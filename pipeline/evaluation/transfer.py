"""Real models for a checkpoint that was trained on others: read, drawn and encoded as its own were."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.corpus.build import build_corpus
from pipeline.corpus.settings import Data, Split
from pipeline.evaluation.real_models import TransferSections, real_path
from pipeline.execution.workers import Workers
from pipeline.features.build import build_features
from pipeline.geometry.build import build_geometry
from pipeline.runtime.fingerprint import sha256_folder
from pipeline.runtime.scratch import keep, kept_or
from pipeline.settings.places import Folders
from pipeline.shards.seen import read_seen

SPLIT = Split(validation=0.05, test=0.9)  # where the dataset publishes none: nearly all are for testing
Step = Callable[[int, int, str], None]


def prepare_real(
    p: TransferSections,
    modalities: Sequence[str],
    models: Path,
    trained: Path,
    device: torch.device,
    folder: Path,
    workers: Workers,
    show: Step,
    unchanged: Callable[[], bool],
) -> Folders | None:
    """Corpus, geometry and features of the models at ``transfer.path``, in ``folder``; what is whole there stays.

    What any network was trained on is left out, whatever ``data.duplicates`` says. None where the models have changed
    while they were read: ``folder`` is for those that there were before, which may be put back.

    Args:
        models: folder of the resolved encoders.
        trained: the corpus that the curriculum was trained on.
        show: progress.
        unchanged: whether the models are still those that ``folder`` is for.

    Raises:
        EmptySplitError: nothing is left to measure.
    """
    found = Folders(folder / "corpus", folder / "geometry", {name: folder / "features" / name for name in modalities})
    data = _real_data(p)
    work = folder / "work"
    if not _is_whole(found.corpus):
        scratch, seen = work / "corpus", read_seen(models) | read_seen(trained, "corpus")
        build_corpus(data, p.codec, p.kernel, p.seed, scratch, found.corpus, workers, show, ("test",), seen)
        if not unchanged():
            return None
        _keep(found.corpus)
    if not _is_whole(found.geometry):
        drawn = p.geometry.model_copy(update={"num_queries": 0})
        out, scratch = found.geometry, work / "geometry"
        build_geometry(found.corpus, data, drawn, p.kernel, p.seed, scratch, out, workers, show)
        if not unchanged():
            return None
        _keep(out)
    for name, out in found.features.items():
        if not _is_whole(out):
            settings, scratch = getattr(p.features, name), work / name
            build_features(name, found.geometry, models, settings, device, scratch, out, workers, show)
            _keep(out)
    return found


def _real_data(p: TransferSections) -> Data:
    """The parameters of a corpus of real models alone, nearly all for testing."""
    taken: dict[str, Any] = {
        "source": "omnicad",
        "path": str(real_path(p)),
        "limit": p.transfer.limit,
        "prefixes": 0,
        "duplicates": "drop",
        "split": SPLIT,
    }
    return p.data.model_copy(update=taken)


def _keep(out: Path) -> None:
    """Keep the sha256 of a folder that is made, beside it."""
    keep(out.with_name(f"{out.name}.json"), sha256_folder(out))


def _is_whole(out: Path) -> bool:
    """Whether a folder is what ``_keep`` has seen."""
    return out.is_dir() and kept_or("", out.with_name(f"{out.name}.json")) == sha256_folder(out)
