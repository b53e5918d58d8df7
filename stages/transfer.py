"""The ``transfer`` stage: the last checkpoint on real models that nothing was trained on."""

import json
from pathlib import Path
from typing import Any

from pipeline.curriculum.place import Place, find_trained
from pipeline.evaluation.real_models import TransferSections, no_real_models, real_path, real_version
from pipeline.evaluation.setup import make_evaluator, measuring
from pipeline.execution.workers import Workers
from pipeline.runtime.atomic import atomic_folder, publish, write_text
from pipeline.runtime.commands import long_running
from pipeline.runtime.fingerprint import sha256_file, sha256_folder
from pipeline.runtime.progress import Display, display
from pipeline.runtime.scratch import clean
from pipeline.settings.places import CHECKPOINTS, CORPUS, EVALUATIONS, METRICS, MODELS, SKIPPED, TRANSFER, Folders
from pipeline.shards.manifest import MANIFEST, Manifest


@long_running
def transfer() -> None:
    """Measure the last checkpoint on the real models at `transfer.path`, where there are some."""
    from pipeline.cad.omnicad.watched import unwatched
    from pipeline.corpus.build import EmptySplitError

    p = TransferSections.load()
    place = find_trained(p.curriculum, list(p.curriculum)[-1])
    with display("transfer") as show:
        reason, hint = no_real_models(p), None
        if reason is None:
            hint = unwatched(real_path(p), "transfer", above=Path(p.transfer.path))
            try:
                while not _measure(p, place, show):
                    show.say("the models have changed meanwhile: they are measured again")
            except EmptySplitError as error:
                counted = ", ".join(f"{number} {name}" for name, number in error.counts["reasons"].items())
                reason = f"no model at transfer.path ({p.transfer.path}) is left to test"
                reason += f" ({error.counts['entries']} entries; rejected: {counted or 'none'})"
        if reason is not None:
            show.say(f"{reason}; nothing is measured on real models")
            _write({})
            with atomic_folder(EVALUATIONS / TRANSFER) as folder:
                write_text(folder / SKIPPED, f"{reason}.\n")
        if hint is not None:
            show.say(hint)


def _measure(p: TransferSections, place: Place, show: Display) -> bool:
    """Measure and publish; False where the models are others by then, of which nothing is published.

    Raises:
        EmptySplitError: no model is left to measure.
    """
    from pipeline.evaluation.evaluate import evaluate as measure
    from pipeline.evaluation.retrieval import retrieval_figures
    from pipeline.evaluation.transfer import prepare_real
    from pipeline.features.build import device_of

    def unchanged() -> bool:
        return real_version(p) == models

    models, first = real_version(p), find_trained(p.curriculum, next(iter(p.curriculum)))
    limits = p.evaluation.model_copy(update={"num_test_models": p.transfer.num_test_models})
    sections: dict[str, Any] = {
        "evaluation": limits,
        "transfer": p.transfer,
        "models": models,
        "data": p.data,
        "codec": p.codec,
        "geometry": p.geometry,
        "features": p.features,
        "encoders": sha256_file(MODELS / MANIFEST),
        "first_stage": first.stage,
        "first_checkpoint": sha256_folder(CHECKPOINTS / first.name),
    }
    with measuring("transfer", p, place, __name__, sections) as scratch:
        workers = Workers.load()
        device = device_of(workers, p.training.device)
        folders = prepare_real(p, list(place.features), MODELS, CORPUS, device, scratch, workers, show, unchanged)
        if folders is None:
            return False
        first_loss = _first_loss(p, first, place, folders, scratch)  # first, so that one model is in memory at a time
        evaluator, _ = make_evaluator(p, place, scratch / "generated", limits, folders)
        show.say(f"{len(evaluator.rows)} test models, on {evaluator.model.device}")
        with evaluator:
            figures = measure(evaluator, evaluator.test, show)
        text = figures["combinations"].get("text", {})
        figures["retention_text"] = None if first_loss is None else text["validation_loss"] / first_loss
        figures["corpus"] = Manifest.read(folders.corpus, "corpus").details["counts"]
        both = len(folders.features) == 2
        figures["retrieval"] = retrieval_figures(folders, MODELS, p.seed, num_models=500) if both else {}
        if not unchanged():
            return False
        publish(evaluator.whole, EVALUATIONS / TRANSFER)
        _write(figures)
        clean(scratch)
    return True


def _first_loss(p: TransferSections, first: Place, place: Place, folders: Folders, scratch: Path) -> float | None:
    """Text-only loss of the curriculum's first stage on these models; None where there is nothing to compare."""
    if len(p.curriculum) < 2 or not all("text" in each.stage.combinations for each in (first, place)):
        return None
    shown = Folders(folders.corpus, folders.geometry, {name: folders.features[name] for name in first.features})
    evaluator, _ = make_evaluator(p, first, scratch / "first", p.evaluation, shown)
    with evaluator:
        return evaluator.losses(evaluator.test)["text"]


def _write(figures: dict[str, Any]) -> None:
    write_text(METRICS / "transfer.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
