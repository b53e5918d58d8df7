"""A stage's place in the curriculum: its parent, its features, and what they are by sha256."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.curriculum.settings import CurriculumStage
from pipeline.model.checkpoint_folder import LINEAGE, check_checkpoint, read_json
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import sha256_file, sha256_folder
from pipeline.settings.places import CHECKPOINTS, CORPUS, FEATURES, GEOMETRY, MODELS
from pipeline.settings.resolved import model_sha256
from pipeline.shards.manifest import MANIFEST, Manifest


@dataclass(frozen=True, slots=True)
class Place:
    """A curriculum stage, its number, its inputs by sha256."""

    name: str
    number: int
    stage: CurriculumStage
    inputs: dict[str, str]

    @property
    def features(self) -> dict[str, Path]:
        """The feature folders that the stage reads."""
        return {modality: FEATURES / modality for modality in self.stage.encoded}


def find_stage(curriculum: Mapping[str, CurriculumStage], name: str) -> Place:
    """A stage of the curriculum with the identity of all that it reads.

    Raises:
        UserError: there is no such stage, or an input is missing.
    """
    if name not in curriculum:
        raise UserError(f"no curriculum stage {name!r} in params.yaml; there are {', '.join(curriculum)}")
    chosen = curriculum[name]
    parent = Path(chosen.init_from)
    if not parent.is_dir():
        before = "models" if parent == MODELS / "llm" else f"train {parent.relative_to(CHECKPOINTS).parts[0]}"
        raise UserError(f"{parent} is missing; run `cadmllm {before}` first")
    Manifest.read(CORPUS, "corpus")
    inputs = {"corpus": sha256_file(CORPUS / MANIFEST), "llm": model_sha256(MODELS / "llm")}
    if parent != MODELS / "llm":
        check_checkpoint(parent)
        inputs["parent"] = sha256_folder(parent)
    for modality in chosen.encoded:
        Manifest.read(FEATURES / modality, f"features/{modality}")
        inputs[f"features/{modality}"] = sha256_file(FEATURES / modality / MANIFEST)
    return Place(name, list(curriculum).index(name) + 1, chosen, inputs)


def find_trained(curriculum: Mapping[str, CurriculumStage], name: str) -> Place:
    """A stage of the curriculum whose checkpoint is there.

    Raises:
        UserError: it is not, or another input is missing.
    """
    place = find_stage(curriculum, name)
    Manifest.read(GEOMETRY, "geometry")
    if not (CHECKPOINTS / name).is_dir():
        raise UserError(f"{CHECKPOINTS / name} is missing; run `cadmllm train {name}` first")
    check_checkpoint(CHECKPOINTS / name)
    return place


def parent_lineage(place: Place) -> dict[str, Any] | None:
    """The lineage of the checkpoint that a stage starts from; None where that is the plain language model."""
    if "parent" not in place.inputs:
        return None
    found: dict[str, Any] = read_json(Path(place.stage.init_from) / LINEAGE)
    return found
