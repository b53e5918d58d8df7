"""What the pretraining commands share: parameters, folders, data."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.pretraining.settings import Pretraining
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import sha256_file
from pipeline.settings.places import CORPUS, GEOMETRY, LOGS, PRETRAINED
from pipeline.shards.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from pipeline.planning.params import Params
    from pipeline.pretraining.data import ShapeData

ALIGNED = PRETRAINED / "aligned"  # both encoders, from solids read back
RECONSTRUCTION = PRETRAINED / "reconstruction"  # encoder of clouds and language model, trained together
ENCODERS = PRETRAINED / "encoders"  # both as they are shipped
LANGUAGE = PRETRAINED / "language_model"
SHAPE_ENCODER, IMAGE_ENCODER, LANGUAGE_MODEL = ("shape_encoder", "image_encoder", "language_model")
MADE_BY = {ALIGNED: "shape-encoder", RECONSTRUCTION: "reconstruction", ENCODERS: "image-encoder"}
MAX_TEST_MODELS = 500
SCORES = "scores.json"


def settings() -> "tuple[Params, Pretraining]":
    """Parameters with their section on pretraining.

    Raises:
        UserError: there is none.
    """
    from pipeline.planning.params import Params

    p = Params.load()
    if p.pretraining is None:
        raise UserError("params.yaml has no section `pretraining`; pretraining/params.yaml does: run in pretraining/")
    return p, p.pretraining


def require(*folders: Path) -> None:
    """See to it that these have been made.

    Raises:
        UserError: one is missing; it names the command that makes it.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is missing; run `cadmllm pretrain {MADE_BY[folder]}` first")


def corpus_inputs() -> dict[str, str]:
    """Captions and programs, by sha256."""
    Manifest.read(CORPUS, "corpus")
    return {"corpus": sha256_file(CORPUS / MANIFEST)}


def geometry_inputs() -> dict[str, str]:
    """Captions, programs, clouds and views, by sha256."""
    Manifest.read(GEOMETRY, "geometry")
    return corpus_inputs() | {"geometry": sha256_file(GEOMETRY / MANIFEST)}


def shape_data(split: str, seed: int) -> "ShapeData":
    """Models of one split."""
    from pipeline.pretraining.data import ShapeData

    return ShapeData(CORPUS, GEOMETRY, split, seed)


def speed_log(name: str) -> Path:
    """Where it is written how fast something was pretrained."""
    return LOGS / "pretrain" / f"{name}.jsonl"
