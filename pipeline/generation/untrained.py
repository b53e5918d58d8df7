"""A checkpoint for which nothing was trained: the networks in ``models/``, as they were pretrained with each other."""

from pathlib import Path
from typing import Any

import torch

from pipeline.cad.language.grammar import Grammar
from pipeline.curriculum.settings import COMBINATIONS
from pipeline.features.build import feature_details, make_featurizer
from pipeline.features.settings import Features
from pipeline.geometry.settings import Geometry
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import save_checkpoint, trained_tensors
from pipeline.model.checkpoint_folder import CONFIG
from pipeline.model.projector import start_from_pretrained
from pipeline.model.settings import ModelParams
from pipeline.runtime.atomic import atomic_folder
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import libraries
from pipeline.settings.resolved import ENCODERS, read_models


def write_untrained(
    params: ModelParams, bits: int, features: Features, geometry: Geometry, seed: int, models: Path, out: Path
) -> tuple[str, ...]:
    """Write such a checkpoint: LoRA that changes nothing, and the projectors beside the language model.

    Args:
        bits: of the codec.
        features, geometry: as the networks saw shapes when they were pretrained.
        models: folder of the resolved models.

    Returns:
        The combinations of modalities that it takes.

    Raises:
        UserError: the models are missing, or the language model was not pretrained with these encoders, or
            the folder holds something else.
    """
    if out.exists() and not (out / CONFIG).is_file():
        raise UserError(f"{out} is there and is no checkpoint; it is left alone")
    entries, cpu = read_models(models), torch.device("cpu")
    model = CadMllmModel(models / "llm", params, Grammar(bits), seed, torch.float32)
    for modality, encoder in ENCODERS.items():
        settings = getattr(features, modality)
        shape = make_featurizer(modality, models, settings, geometry.num_views, cpu).shape
        details = feature_details(entries[encoder], settings, geometry.model_dump(mode="json"))
        model.add_projector(modality, shape, details)
        if not start_from_pretrained(model.projectors[modality], models / "llm", modality):
            del model.projectors[modality], model.feature_shapes[modality], model.feature_details[modality]
    if not model.projectors:
        raise UserError(f"{models / 'llm'} was pretrained with no projector for these encoders: train a curriculum")
    known = {"text", *model.projectors}
    combinations = tuple(each for each in COMBINATIONS if known.issuperset(each.split("+")))
    digests = {name: entry["sha256"] for name, entry in entries.items()}
    with atomic_folder(out) as folder:
        tensors = trained_tensors(model)
        save_checkpoint(folder, model, tensors, combinations, digests["llm"], _lineage(digests))
    return combinations


def _lineage(digests: dict[str, str]) -> dict[str, Any]:
    return {
        "stage": "none",
        "steps": 0,
        "init_from": "models/llm",
        "inputs_sha256": digests,
        "libraries": libraries(__name__),
        "params": {},
        "validation": {},
        "parent": None,
    }
