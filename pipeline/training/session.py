"""One curriculum stage from its parent's checkpoint to its own: what is read, what is published."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.cad.language.grammar import Grammar
from pipeline.curriculum.advice import flat_loss_advice
from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.log import StageLog, plot_tables
from pipeline.curriculum.place import Place, parent_lineage
from pipeline.curriculum.plan import share_out
from pipeline.curriculum.retention import retention_advice, text_retention
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import TensorFiles, load_checkpoint, save_checkpoint, trained_tensors
from pipeline.model.checkpoint_folder import BEST, LOG, CheckpointConfig
from pipeline.model.projector import start_from_pretrained
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.runtime.device import DTYPES
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import libraries, other_versions, sha256_folder
from pipeline.runtime.progress import Display, display
from pipeline.runtime.scratch import clean, keep, kept_or, work_folder
from pipeline.settings import memory
from pipeline.settings.places import CHECKPOINTS, CORPUS, LOGS, METRICS, MODELS, PLOTS
from pipeline.shards.manifest import Manifest
from pipeline.training.loop import Job, Trainer
from pipeline.training.memory import for_model, for_training
from pipeline.training.mirror import SPEED, Mirror
from pipeline.training.parallel import Parallel
from pipeline.training.settings import TrainSections
from pipeline.training.state import state_folder

BEST_KEPT = f"{BEST}.json"  # in scratch: the sha256 of the best checkpoint


@dataclass(frozen=True, slots=True)
class Session:
    """What the parts of a run of a stage share.

    Attributes:
        module: what it imports is the code of the run.
        parent: lineage of the checkpoint that it starts from; None where that is the plain language model.
        scratch: its folder of resumable work.
    """

    p: TrainSections
    place: Place
    module: str
    parent: dict[str, Any] | None
    scratch: Path
    parallel: Parallel
    show: Display
    mirror: Mirror


def run_stage(
    p: TrainSections, place: Place, parallel: Parallel, make_trainer: type[Trainer] = Trainer, module: str = __name__
) -> None:
    """Train a stage, from where a former run of it stopped, and publish its checkpoint, figures and plots.

    Args:
        make_trainer: of the stage's objective.
        module: what this imports is the code that the work depends on.

    Raises:
        UserError: an input does not fit, or memory runs out.
    """
    name, parent = place.name, parent_lineage(place)
    inputs = place.inputs | _libraries(p, module)  # one of them no import shows
    with (
        display(f"train {name}", shown=parallel.is_main) as show,
        work_folder(f"train-{name}", module, _sections(p, place), inputs, parallel.is_main) as scratch,
        Mirror(p, name, scratch, parent, show.say, parallel) as mirror,
    ):
        session = Session(p, place, module, parent, scratch, parallel, show, mirror)
        with _memory_for_model(session):
            model = make_model(p, place, parallel.made_on, show.say)
        data = _open_data(session, model)
        with _memory_for_model(session):
            trainer = make_trainer(model, _job(session, model, data))
        try:
            with _memory_for_steps(session, trainer):
                figures = trainer.train()
        finally:
            mirror.step = trainer.done
        tensors = trained_tensors(model)
        if parallel.is_main:
            _publish(session, model, trainer, tensors, figures)


def make_model(
    p: TrainSections, place: Place, device: torch.device, say: Callable[[str], None] = lambda _: None
) -> CadMllmModel:
    """The model that the stage starts from, with a projector for every modality that it shows.

    A new projector is random, or as it was pretrained with the language model, for this very encoder.

    Raises:
        UserError: its parent was trained with another codec, or on features of another shape.
    """
    dtype, quantization = DTYPES[p.training.dtype], p.training.quantization
    if "parent" in place.inputs:
        model = load_checkpoint(Path(place.stage.init_from), MODELS / "llm", dtype, p.model, quantization, device)
        if model.grammar.bits != p.codec.bits:
            raise UserError(
                f"{place.stage.init_from} was trained with codec.bits {model.grammar.bits}, not {p.codec.bits}"
            )
    else:
        grammar = Grammar(p.codec.bits)
        model = CadMllmModel(MODELS / "llm", p.model, grammar, _seed(p), dtype, quantization, device)
    for modality, folder in place.features.items():
        manifest = Manifest.read(folder)
        shape = tuple(manifest.fields[f"{modality}.npy"]["shape"])
        known = model.feature_shapes.get(modality)
        if known is None:
            model.add_projector(modality, shape, manifest.details)
            if start_from_pretrained(model.projectors[modality], MODELS / "llm", modality):
                say(f"the projector of {modality} starts as it was pretrained with the language model")
        elif known != shape:
            raise UserError(f"{folder} holds features of shape {shape}, the parent checkpoint was trained on {known}")
    return model


def _open_data(session: Session, model: CadMllmModel) -> dict[str, TrainingData]:
    """The splits that training reads; says how much that is."""
    place, parallel, say = session.place, session.parallel, session.show.say
    most = session.p.model.max_caption_tokens
    data = {
        split: TrainingData(CORPUS, place.features, split, model.tokenizer, most, model.notation)
        for split in ("train", "validation")
    }
    train, validation = (len(part) for part in data.values())
    among = f", {parallel.size} processes" * (parallel.size > 1)
    say(f"{train} models to train on, {validation} to validate on, on {parallel.device}{among}")
    for difference in (_other_weights(session.p, place), _other_libraries(session)):
        if difference:
            say(f"note: {difference}")
    return data


def _job(session: Session, model: CadMllmModel, data: dict[str, TrainingData]) -> Job:
    p, scratch, parallel, show = session.p, session.scratch, session.parallel, session.show

    def save_best(tensors: TensorFiles, validation: dict[str, float], steps: int) -> None:
        if parallel.is_main:
            with atomic_folder(scratch / BEST) as folder:
                _write_checkpoint(session, folder, model, tensors, validation, steps)
            keep(scratch / BEST_KEPT, sha256_folder(scratch / BEST))

    return Job(
        stage=session.place.stage,
        training=p.training,
        train=data["train"],
        validation=data["validation"],
        seed=_seed(p),
        scratch=scratch,
        parallel=parallel,
        save_best=save_best,
        open_log=lambda length: StageLog(scratch / LOG, length, scratch / SPEED, parallel.is_main, session.mirror),
        show=show,
        say=show.say,
    )


def _publish(
    session: Session, model: CadMllmModel, trainer: Trainer, tensors: TensorFiles, figures: dict[str, Any]
) -> None:
    """Checkpoint, figures, plots and log to where dvc.yaml names them; warnings; scratch goes.

    Raises:
        UserError: a disk has damaged the best checkpoint.
    """
    p, name, scratch, say = session.p, session.place.name, session.scratch, session.show.say
    if kept_or("", scratch / BEST_KEPT) != sha256_folder(scratch / BEST):
        raise UserError(f"{scratch / BEST} is damaged; remove {scratch} to begin anew")
    figures["retention_text"] = text_retention(_lineage(session, figures["validation"], trainer.done))
    for advice in (
        retention_advice(figures["retention_text"], p, name),
        flat_loss_advice(trainer.log.lines, p, name),
    ):
        if advice:
            say(f"warning: {advice}")
    write_text(METRICS / "train" / f"{name}.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
    for kind, text in plot_tables(scratch / LOG).items():
        write_text(PLOTS / name / f"{kind}.csv", text)
    with atomic_folder(CHECKPOINTS / name) as folder:
        _write_checkpoint(session, folder, model, tensors, figures["validation"], trainer.done)
        shutil.copytree(scratch / BEST, folder / BEST)
        shutil.copyfile(scratch / LOG, folder / LOG)
    LOGS.joinpath("train").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(scratch / SPEED, LOGS / "train" / f"{name}.jsonl")
    session.mirror.finish(figures)
    clean(scratch)
    say(f"checkpoint in {CHECKPOINTS / name}, the best by validation loss in {CHECKPOINTS / name / BEST}")


def _write_checkpoint(
    session: Session,
    folder: Path,
    model: CadMllmModel,
    tensors: TensorFiles,
    validation: dict[str, float],
    steps: int,
) -> None:
    place = session.place
    lineage = _lineage(session, validation, steps)
    save_checkpoint(folder, model, tensors, place.stage.combinations, place.inputs["llm"], lineage)


def _lineage(session: Session, validation: dict[str, float], steps: int) -> dict[str, Any]:
    """What a checkpoint says of its making."""
    place = session.place
    return {
        "stage": place.name,
        "steps": steps,
        "init_from": place.stage.init_from,
        "inputs_sha256": place.inputs,
        "libraries": _libraries(session.p, session.module),
        "params": {key: _plain(value) for key, value in _sections(session.p, place).items()},
        "validation": validation,
        "parent": session.parent,
    }


def _sections(p: TrainSections, place: Place) -> dict[str, Any]:
    """The parameters that training depends on."""
    return {"model": p.model, "training": p.training, "codec": p.codec, "seed": p.seed, "stage": place.stage}


def _seed(p: TrainSections) -> int:
    return p.seed if p.training.seed is None else p.training.seed


def _libraries(p: TrainSections, module: str) -> dict[str, str]:
    """Versions of what computes."""
    return libraries(module, *(["bitsandbytes"] if p.training.quantization != "none" else []))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


@contextmanager
def _memory_for_model(session: Session) -> Iterator[None]:
    parallel = session.parallel
    work = f"on {parallel.device}, with the model alone"
    with memory.explained(
        lambda: work, lambda: for_model(session.p.training, parallel.size, parallel.device.type == "cuda")
    ):
        yield


@contextmanager
def _memory_for_steps(session: Session, trainer: Trainer) -> Iterator[None]:
    p, parallel, num_steps = session.p, session.parallel, trainer.plan.num_steps

    def largest() -> tuple[int, int]:
        examples = next(trainer.plan.steps(min(trainer.done, num_steps - 1))).examples
        lengths = trainer.lengths(examples)
        micro_batches = share_out(lengths, p.training.tokens_per_batch, parallel.size)
        return max(((len(micro), sum(lengths[n] for n in micro)) for micro in micro_batches), key=lambda size: size[1])

    def work() -> str:
        samples, positions = largest()
        state = state_folder(trainer.job.scratch, trainer.saved)
        kept = f"{state} is kept, and gone on from under these parameters" if trainer.saved else "no state is saved yet"
        return (
            f"on {parallel.device} at step {trainer.done + 1} of {num_steps}, in batches of up to {samples} samples "
            f"and {positions} positions; {kept}"
        )

    gpu, stage, shapes = parallel.device.type == "cuda", session.place.stage, trainer.model.feature_shapes
    with memory.explained(work, lambda: for_training(p, stage, shapes, largest(), parallel.size, gpu)):
        yield


def _other_weights(p: TrainSections, place: Place) -> str | None:
    """That the stage goes on with other frozen weights than its parent was trained on; None where it does not."""
    if "parent" not in place.inputs:
        return None
    parent = place.stage.init_from
    before = CheckpointConfig.read(Path(parent))
    now = before.model_copy(update={"dtype": p.training.dtype, "quantization": p.training.quantization})
    if now == before:
        return None
    return f"{parent} was trained on frozen weights in {before.weights}, this stage is on {now.weights}"


def _other_libraries(session: Session) -> str | None:
    """That the parent was trained with other versions than compute now; None where it was not."""
    changed = other_versions((session.parent or {}).get("libraries", {}), _libraries(session.p, session.module))
    return changed and f"{session.place.stage.init_from} was trained with {changed}"
