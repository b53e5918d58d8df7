"""The ``features`` stage: a frozen encoder over every model, once."""

from enum import StrEnum
from typing import Annotated

import typer

from pipeline import params, work
from pipeline.fingerprint import sha256_file
from pipeline.progress import display
from pipeline.shards.manifest import MANIFEST, Manifest
from stages.runner import FEATURES, GEOMETRY, MODELS, stage


class Modality(StrEnum):
    """What has an encoder."""

    image = "image"
    point_cloud = "point_cloud"


@stage
def features(modality: Annotated[Modality, typer.Option(help="Which encoder runs.")]) -> None:
    """Run a frozen encoder once over data/geometry/ and write its embeddings to data/features/<modality>/."""
    from pipeline.data.features import ENCODERS, build_features
    from pipeline.device import choose_device
    from pipeline.encoders.weights import read_models

    p = params.load()
    Manifest.read(GEOMETRY, "geometry")
    settings = getattr(p.features, modality.value)
    inputs = {
        "geometry": sha256_file(GEOMETRY / MANIFEST),
        "encoder": read_models(MODELS)[ENCODERS[modality.value]]["sha256"],
    }
    with (
        display(f"features {modality.value}") as show,
        work.scratch(f"features-{modality.value}", __name__, {"settings": settings}, inputs) as scratch,
    ):
        out, device = FEATURES / modality.value, choose_device(p.training.device)
        counts = build_features(modality.value, GEOMETRY, MODELS, p.features, device, scratch, out, show)
        show.say(f"{counts['samples']} models encoded, {counts['rejected']} rejected")
