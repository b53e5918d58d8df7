"""What measures a checkpoint, and the folder that it measures in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.curriculum.place import Place
from pipeline.runtime.fingerprint import sha256_file, sha256_folder
from pipeline.runtime.scratch import work_folder
from pipeline.settings import memory, params
from pipeline.settings.params import Evaluation, Params
from pipeline.settings.places import CHECKPOINTS, CORPUS, GEOMETRY, MODELS, Folders
from pipeline.shards.manifest import MANIFEST

if TYPE_CHECKING:
    from pipeline.curriculum.data import TrainingData
    from pipeline.evaluation.evaluate import Evaluator


@contextmanager
def measuring(kind: str, p: Params, place: Place, module: str, sections: dict[str, Any]) -> Iterator[Path]:
    """The folder of this piece of work: it depends on the sections, the checkpoint and the code that is imported."""
    checkpoint = CHECKPOINTS / place.name
    common = {"training": p.training, "kernel": p.kernel, "seed": p.seed, "stage": place.stage}
    inputs = {**place.inputs, "checkpoint": sha256_folder(checkpoint), "geometry": sha256_file(GEOMETRY / MANIFEST)}
    with (
        work_folder(f"{kind}-{place.name}", module, {**sections, **common}, inputs) as folder,
        memory.explained(lambda: f"in {kind}", lambda: memory.for_evaluation(sections["evaluation"], p.training)),
    ):
        yield folder


def own_folders(place: Place) -> Folders:
    """Where the models are kept that the pipeline was run on."""
    return Folders(CORPUS, GEOMETRY, place.features)


def make_evaluator(
    p: Params, place: Place, scratch: Path, limits: Evaluation, folders: Folders
) -> "tuple[Evaluator, TrainingData]":
    """What measures the checkpoint of a curriculum stage on test models, and the validation data."""
    from pipeline.curriculum.data import TrainingData, check_codec
    from pipeline.evaluation.evaluate import Evaluator, Setting
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
    return Evaluator(model, data["test"], reader, setting, scratch, params.num_workers()), data["validation"]
