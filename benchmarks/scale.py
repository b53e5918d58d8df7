"""What ten times as many models take: prints one JSON object, each figure with both numbers of models.

    python benchmarks/scale.py [--models 45000 450000] [--per-shard 1000] [--starts all new]

For each number there is a project of its own with a dataset of so many tiny models (washers and plates, which differ in
a caption and in a name). It has a published split that names all of them, and of five models one is a copy of another.
To build 450,000 solids takes hours, so what the kernel does and what `cadmllm corpus` does around it are measured
apart, on the dataset as a folder and as a zip:

- ``corpus_listed_per_s``: models listed and given their captions;
- ``corpus_models_per_s``: the whole command, from listing to published shards, with workers that parse a model and
  build nothing, and ``rss_mib`` of its own process (VmHWM), workers not included; ``corpus_duplicates``: models that
  it left out, since the train split has them;
- ``corpus_kernel_models_per_s``: what the kernel alone does, on all cores, with 400 of the models.

Training reads what this made of the folder, and features of small arrays, in tars as the pipeline writes them, with a
language model of two layers, on the CPU:

- ``train_start_s``: from `cadmllm train stage3_all`, a process, to the line of its first step: reading a parent's
  checkpoint, hashing inputs, tracking (offline) and validation before it included, and all that is imported, which
  takes ``train_imports_s`` of it whatever the size; ``train_start_all_s``: the same where ``text_embeddings`` is
  ``all``, and every word of the captions is tokenised first. What it reads is in the page cache, since it was just
  written;
- ``plan_epoch_s``: all steps of one epoch drawn, with what each sample shows;
- ``rss_mib``: the most resident memory, mapped files included, of a process that has trained some steps and read 45,000
  samples, which lie in all parts of the index;
- ``repro_noop_s``: `dvc repro train@stage2_text_pc` that has nothing to do, with this project's dvc.yaml: it looks at
  the dataset's files, for `corpus` and for `geometry`, at all shards, and at models and code. Nothing has run under
  DVC; `dvc commit` told it what is there.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _scale_corpus as reading
import _scale_project as project
from _common import in_child, parse

if TYPE_CHECKING:
    from pipeline.training.loop import Trainer

DATA = {"folder": Path("data/raw/Omni-CAD"), "zip": Path("data/raw/Omni-CAD.zip")}
STARTS = {"all": "train_start_all_s", "new": "train_start_s"}  # the project stays as the last one has it
TRAINED_STEPS = 20
READ_SAMPLES = 45_000


def train_steps(trainer: "Trainer", number: int) -> None:
    """So many steps, or all that are left."""
    for step, batches in itertools.islice(trainer.steps, number):
        trainer.optimize(batches, step.num_targets).loss.item()


def train() -> dict[str, float]:
    """An epoch planned, and the memory of training, in the project of this folder and in this process."""
    import torch
    from training import make_trainer, set_up

    from pipeline.runtime.device import peak_memory

    p, model, (data, validation) = set_up(project.STAGE, ("train", "validation"))
    trainer = make_trainer(p, project.STAGE, model, data, validation)
    trainer.validate_where_due()
    train_steps(trainer, TRAINED_STEPS)
    trainer.steps.close()
    per_epoch = trainer.plan.steps_per_epoch
    started = time.perf_counter()
    samples = sum(len(step.examples) for step in itertools.islice(trainer.plan.steps(), per_epoch))
    planned = time.perf_counter() - started
    assert samples == len(data)
    for step in itertools.islice(trainer.plan.steps(), min(per_epoch, READ_SAMPLES // p.training.batch_size)):
        for _ in data.batches(step.examples, p.training.tokens_per_batch, trainer.num_tokens, 0, 1):
            pass
    memory = peak_memory(torch.device("cpu")) / reading.MIB
    return {"plan_epoch_s": round(planned, 2), "rss_mib": round(memory, 1)}


class Figures:
    """Figures by name, and within it by number of models, where it makes a difference by how the dataset lies too."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def note(self, name: str, value: float, *place: str | int) -> None:
        """Keep a figure, and say it."""
        *outer, last = place
        table = self.found.setdefault(name, {})
        for each in outer:
            table = table.setdefault(each, {})
        table[last] = round(value, 2)
        print(name, *place, table[last], file=sys.stderr, flush=True)


def train_parent() -> None:
    """``cadmllm train`` of the stage before."""
    from training import run_command

    run_command(f"train {project.PARENT}")


def measure_corpus(folder: Path, kind: str, number: int, figures: Figures) -> None:
    """``cadmllm corpus`` in a project, which then has what it makes."""
    for name, value in in_child(folder, reading.listing).items():
        figures.note(name, value, kind, number)
    for name, value in in_child(folder, reading.corpus).items():
        figures.note(name, value, *["corpus"] * (name == "rss_mib"), kind, number)


def measure_training(folder: Path, number: int, figures: Figures, starts: list[str]) -> None:
    """What follows in the project with the folder."""
    for measure in (reading.kernel, project.imports):
        for name, value in in_child(folder, measure).items():
            figures.note(name, value, number)
    in_child(folder, project.make_models)
    in_child(folder, project.make_outs)
    in_child(folder, train_parent)
    for text_embeddings, name in STARTS.items():
        if text_embeddings in starts:
            figures.note(name, project.first_step(folder, text_embeddings), number)
    for name, value in in_child(folder, train).items():
        figures.note(name, value, *["train"] * (name == "rss_mib"), number)
    figures.note("repro_noop_s", project.repro_nothing(folder), number)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[45_000, 450_000])
    parser.add_argument("--per-shard", type=int, default=1_000)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS), help="``text_embeddings``")
    arguments = parse(parser, models=[200], per_shard=50, starts=["new"])
    figures = Figures()
    for number in arguments.models:
        for kind, path in DATA.items():
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                project.make_project(folder, path, arguments.per_shard)
                (reading.make_folder if kind == "folder" else reading.make_zip)(folder / path, number)
                measure_corpus(folder, kind, number, figures)
                if kind == "folder":
                    measure_training(folder, number, figures, arguments.starts)
    print(json.dumps(figures.found))


if __name__ == "__main__":
    main()
