"""The networks that the package carries as a checkpoint with all that it needs: for who has trained nothing."""

from collections.abc import Callable
from pathlib import Path

from pipeline.cad.language.settings import Codec
from pipeline.features.settings import Features
from pipeline.geometry.settings import Geometry
from pipeline.model.settings import ModelParams
from pipeline.runtime.atomic import exclusive, publish
from pipeline.runtime.commands import importing
from pipeline.runtime.fingerprint import fingerprint, sha256_folder
from pipeline.runtime.scratch import keep, kept_or
from pipeline.settings.params import Sections
from pipeline.settings.places import MODELS, SHIPPED, SHIPPED_PARAMS
from pipeline.settings.section import Seed
from pipeline.weights.settings import Models

WHOLE = "sha256.json"  # of what was made: what a disk or a user has damaged since is made again
WAIT_S = 120  # for another process that makes the same


class ShippedSections(Sections):
    """What they are made a checkpoint with."""

    seed: Seed
    models: Models
    codec: Codec
    geometry: Geometry
    features: Features
    model: ModelParams


def shipped_checkpoint(scratch: Path, say: Callable[[str], None]) -> Path:
    """The folder of that checkpoint, with ``models/`` in it; made once, for these weights and this code.

    Args:
        scratch: where it is kept; say: gets a line where it is made, which takes ten seconds.

    Raises:
        UserError: another process has been making it for two minutes.
    """
    p = ShippedSections.load(SHIPPED_PARAMS)
    place = scratch / "shipped" / fingerprint(__name__, dict(p), {"networks": sha256_folder(SHIPPED)})
    made = place / "shipped"
    if not _is_whole(made):
        with exclusive(place, WAIT_S):
            if not _is_whole(made):
                say(f"making a checkpoint of the package's networks, kept in {place}")
                _make(p, place, made)
    return made


def _is_whole(made: Path) -> bool:
    return made.is_dir() and kept_or(None, made.with_name(WHOLE)) == sha256_folder(made)


def _make(p: ShippedSections, place: Path, out: Path) -> None:
    with importing():
        from pipeline.generation.untrained import write_untrained
        from pipeline.weights.resolve import build_models

    models, whole = place / MODELS, place / "checkpoint"
    build_models(p.models, p.seed, place / "resolved", models, lambda *_: None)
    write_untrained(p.model, p.codec.bits, p.features, p.geometry, p.seed, models, whole)
    models.rename(whole / MODELS)
    keep(out.with_name(WHOLE), sha256_folder(whole))
    publish(whole, out)
