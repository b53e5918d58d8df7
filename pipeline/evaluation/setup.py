"""What measures a checkpoint, and the folder that it measures in."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cad.solids.settings import Kernel
from pipeline.curriculum.place import Place
from pipeline.curriculum.settings import Training
from pipeline.evaluation.settings import Evaluation, Robustness
from pipeline.execution.workers import Workers
from pipeline.runtime.fingerprint import sha256_file, sha256_folder
from pipeline.runtime.scratch import work_folder
from pipeline.settings import memory
from pipeline.settings.places import CHECKPOINTS, CORPUS, GEOMETRY, MODELS, Folders
from pipeline.shards.manifest import MANIFEST
from pipeline.training.settings import TrackedSections

if TYPE_CHECKING:
    from pipeline.curriculum.data import TrainingData
    from pipeline.evaluation.evaluator import Batch, Evaluator


class EvaluateSections(TrackedSections):
    """What measuring a checkpoint reads."""

    kernel: Kernel
    evaluation: Evaluation


class RobustnessSections(EvaluateSections):
    """And with worse inputs."""

    robustness: Robustness


@contextmanager
def measuring(kind: str, p: EvaluateSections, place: Place, module: str, sections: dict[str, Any]) -> Iterator[Path]:
    """The folder of this piece of work: it depends on the sections, the checkpoint and the code that is imported."""
    checkpoint = CHECKPOINTS / place.name
    common = {"training": p.training, "kernel": p.kernel, "seed": p.seed, "stage": place.stage}
    inputs = {**place.inputs, "checkpoint": sha256_folder(checkpoint), "geometry": sha256_file(GEOMETRY / MANIFEST)}
    with (
        work_folder(f"{kind}-{place.name}", module, {**sections, **common}, inputs) as folder,
        memory.explained(lambda: f"in {kind}", lambda: remedies(sections["evaluation"], p.training)),
    ):
        yield folder


def own_folders(place: Place) -> Folders:
    """Where the models are kept that the pipeline was run on."""
    return Folders(CORPUS, GEOMETRY, place.features)


def make_evaluator(
    p: EvaluateSections,
    place: Place,
    scratch: Path,
    limits: Evaluation,
    folders: Folders,
    workers: Workers | None = None,
    kind: "type[Evaluator] | None" = None,
) -> "tuple[Evaluator, TrainingData]":
    """What measures the checkpoint of a curriculum stage on test models, and the validation data.

    Args:
        workers: default: those of params.yaml.
        kind: of evaluator; default: ``Evaluator`` itself.
    """
    from pipeline.curriculum.data import TrainingData, check_codec
    from pipeline.evaluation.evaluator import Evaluator, Setting
    from pipeline.model.checkpoint import load_checkpoint
    from pipeline.runtime.device import choose_device
    from pipeline.shards.reader import ShardReader

    model = load_checkpoint(CHECKPOINTS / place.name, MODELS / "llm", device=choose_device(p.training.device))
    data = {
        split: TrainingData(
            folders.corpus, folders.features, split, model.tokenizer, model.params.max_caption_tokens, model.notation
        )
        for split in ("validation", "test")
    }
    check_codec(data["test"], model.grammar)
    setting = Setting(place.stage, p.training, limits, p.kernel, p.seed)
    reader = ShardReader(folders.geometry, "geometry")
    workers = workers or Workers.load()

    def elsewhere() -> EvaluatorElsewhere:
        return EvaluatorElsewhere(p, place, limits, folders, workers.cores_of_network(p.training.device), kind)

    there = None if workers.are_here else elsewhere
    return (kind or Evaluator)(model, data["test"], reader, setting, scratch, workers, there), data["validation"]


@dataclass(frozen=True, slots=True)
class EvaluatorElsewhere:
    """What a machine of a cluster loads to measure batches.

    Attributes:
        cores: there, for building and measuring.
        kind: as of ``make_evaluator``.
    """

    p: EvaluateSections
    place: Place
    limits: Evaluation
    folders: Folders
    cores: int
    kind: "type[Evaluator] | None"

    def begin(self) -> "Callable[[Batch], list[Any]]":
        """Load the checkpoint. What is made goes back to who asks; nothing is kept here."""
        scratch, workers = Path(tempfile.mkdtemp()), Workers(self.cores)
        evaluator, _ = make_evaluator(self.p, self.place, scratch, self.limits, self.folders, workers, self.kind)
        return evaluator.made


def remedies(limits: Evaluation, training: Training) -> Iterator[str]:
    """With what writing and scoring programs takes less memory, and the validation loss."""
    if limits.batch_size > 1:
        yield f"evaluation.batch_size: less than {limits.batch_size}"
    if limits.num_candidates > 1:
        yield f"evaluation.num_candidates: less than {limits.num_candidates}"
    yield f"evaluation.max_new_tokens: less than {limits.max_new_tokens}"
    yield f"training.tokens_per_batch: less than {training.tokens_per_batch} (of the validation loss's batches, too)"
