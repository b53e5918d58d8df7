"""What ten times as many models take: prints one JSON object, each figure with both numbers of models.

    python benchmarks/scale.py [--models 45000 450000] [--per-shard 1000]

Real tars with small samples, written as the stages write them, and a language model of two layers, on the CPU. Each
figure of training is taken in a process of its own:

- ``train_start_s``: from the start of the process to the end of the first step, what is imported and the validation
  before it included; ``train_start_all_s``: the same where ``text_embeddings`` is ``all``, and every caption is
  tokenised first;
- ``plan_epoch_s``: all steps of one epoch drawn, with what each sample shows;
- ``rss_mib``: the most resident memory, mapped files included (VmHWM), of a process that has trained some steps and
  read 45,000 samples, which lie in all parts of the index.

Those of the corpus stage are of datasets with so many tiny models (washers and plates), as a folder and as a zip. To
build 450,000 solids takes hours, so what the kernel does and what the stage does around it are measured apart:

- ``corpus_listed_per_s``: models listed and given their captions;
- ``corpus_models_per_s``: the whole stage, from listing to published shards, with workers that parse a model and build
  nothing, and ``rss_mib`` of its own process, workers not included;
- ``corpus_kernel_models_per_s``: what the kernel alone does, on all cores, with 400 of the models;
- ``repro_noop_s``: `dvc repro corpus` that has nothing to do, in a project with this dataset as a folder, of which the
  stage takes 20 models.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _common import ROOT, in_child, parse
from _scale_corpus import corpus_figures

from pipeline.cad.language.codec import Codec
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.listing import Entry
from pipeline.cad.parts import synthesis
from pipeline.corpus.build import members_of
from pipeline.corpus.prepare import PrepareTask, model_id, prepare
from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.settings.places import CORPUS, FEATURES, MODELS
from pipeline.shards import embeddings
from pipeline.shards.building import write_manifest
from pipeline.shards.index import shard_rows
from pipeline.shards.manifest import Shard
from pipeline.shards.writer import write_shard

if TYPE_CHECKING:
    from pipeline.training.loop import Trainer

STAGE = "stage3_all"
PARTS = 16  # different programs; all others are these under other names
SHAPES = {"point_cloud": (4, 16), "image": (2, 4, 16)}
TRAINED_STEPS = 20
READ_SAMPLES = 45_000
MIB = 1 << 20


def make_project(folder: Path, num_models: int, per_shard: int) -> None:
    """A project with a corpus and features of so many models, a hundredth of them to validate on."""
    os.chdir(folder)
    (folder / "presets").symlink_to(ROOT / "presets")
    document = presets.compose("smoke")
    presets.merge(document, {"training": {"batch_size": 64}}, "")
    presets.write(document, folder / "params.yaml")
    p = Params.load()
    from pipeline.weights.resolve import build_models

    build_models(p.models, p.seed, folder / "scratch", MODELS, lambda *_: None)
    codec, records = Codec(p.codec.bits), []
    for number in range(PARTS):
        part = synthesis.make_part(p.seed, number, tuple(synthesis.FAMILIES))
        entry, text = Entry(model_id(f"0000/{number:08d}", part.program), part.caption), documents.dumps(part.program)
        records.append(prepare(PrepareTask(entry, text.encode(), codec.bits, codec.tolerance, 10_000)))
    numbers, held_out = range(num_models), max(1, num_models // 100)
    splits = {"train": numbers[held_out:], "validation": numbers[:held_out]}
    jobs = [
        (f"{split}-{start // per_shard:06d}.tar", own[start : start + per_shard])
        for split, own in splits.items()
        for start in range(0, len(own), per_shard)
    ]
    with multiprocessing.get_context("spawn").Pool() as pool:
        made = pool.starmap(functools.partial(_write_shards, records), jobs, chunksize=1)
    shards = {place: [each[place][0] for each in made] for place in made[0]}
    rows = {place / each[place][0].name: each[place][1] for each in made for place in each}
    details: dict[str, Any] = {"codec": {"bits": p.codec.bits}}
    write_manifest(CORPUS, "corpus", {}, details, shards[CORPUS], rows.__getitem__)
    for modality, shape in SHAPES.items():
        place, fields = FEATURES / modality, embeddings.fields(f"{modality}.npy", shape, "float16")
        details = {"encoder": {"source": "init", "sha256": "none"}}
        write_manifest(place, f"features/{modality}", fields, details, shards[place], rows.__getitem__)


def _write_shards(records: list[dict[str, Any]], name: str, numbers: range) -> dict[Path, tuple[Shard, np.ndarray]]:
    """A shard of the corpus and those of the features of the same models, with their rows of the index."""
    entries = [
        Entry(f"{number // 10_000:04d}/{number:08d}_00001", f"Part {number}: {records[number % PARTS]['caption']}")
        for number in numbers
    ]
    tokens = np.random.default_rng(0).normal(size=np.prod(SHAPES["image"])).astype(np.float32)

    def models() -> Iterator[tuple[str, dict[str, bytes]]]:
        for number, entry in zip(numbers, entries, strict=True):
            own = {"id": entry.id, "key": entry.key, "caption": entry.caption}
            yield entry.key, members_of({**records[number % PARTS], **own})

    def features(modality: str, shape: tuple[int, ...]) -> Iterator[tuple[str, dict[str, bytes]]]:
        made = embeddings.members(f"{modality}.npy", np.resize(tokens, shape), "float16")
        return ((entry.key, made) for entry in entries)

    written = {CORPUS: models()} | {
        FEATURES / modality: features(modality, shape) for modality, shape in SHAPES.items()
    }
    return {place: (write_shard(place / name, samples), shard_rows(place / name)) for place, samples in written.items()}


def begin(text_embeddings: str) -> "tuple[Trainer, float]":
    """A trainer in the project of this folder after its first step, and for how long this process has been running."""
    import psutil
    from training import make_trainer, set_up

    p, model, (data, validation) = set_up(STAGE, ("train", "validation"))
    stage = p.curriculum[STAGE].model_copy(update={"text_embeddings": text_embeddings})
    p = p.model_copy(update={"curriculum": {**p.curriculum, STAGE: stage}})
    trainer = make_trainer(p, STAGE, model, data, validation)
    trainer.validate_where_due()
    train_steps(trainer, 1)
    return trainer, time.time() - psutil.Process().create_time()


def train_steps(trainer: "Trainer", number: int) -> None:
    """So many steps, or all that are left."""
    for step, batches in itertools.islice(trainer.steps, number):
        trainer.optimize(batches, step.num_targets).loss.item()


def train_all() -> dict[str, float]:
    """How long the start takes where rows of the captions' tokens are trained."""
    trainer, start = begin("all")
    trainer.steps.close()
    return {"train_start_all_s": round(start, 2)}


def train() -> dict[str, float]:
    """The figures of training in the project of this folder, in this process."""
    import torch

    from pipeline.runtime.device import peak_memory

    trainer, start = begin("new")
    data, training = trainer.job.train, trainer.job.training
    train_steps(trainer, TRAINED_STEPS - 1)
    trainer.steps.close()
    per_epoch = trainer.plan.steps_per_epoch
    started = time.perf_counter()
    samples = sum(len(step.examples) for step in itertools.islice(trainer.plan.steps(), per_epoch))
    planned = time.perf_counter() - started
    assert samples == len(data)
    for step in itertools.islice(trainer.plan.steps(), min(per_epoch, READ_SAMPLES // training.batch_size)):
        for _ in data.batches(step.examples, training.tokens_per_batch, trainer.num_tokens, 0, 1):
            pass
    memory = peak_memory(torch.device("cpu")) / MIB
    return {"train_start_s": round(start, 2), "plan_epoch_s": round(planned, 2), "rss_mib": round(memory, 1)}


def training_figures(sizes: list[int], per_shard: int) -> dict[str, Any]:
    """Figures of training by number of models."""
    found = {}
    for number in sizes:
        with tempfile.TemporaryDirectory() as name:
            make_project(Path(name), number, per_shard)
            found[number] = in_child(Path(name), train) | in_child(Path(name), train_all)
            os.chdir(ROOT)
        print(f"training, {number} models: {found[number]}", file=sys.stderr, flush=True)
    by_name = {name: {number: figures[name] for number, figures in found.items()} for name in found[sizes[0]]}
    return {**by_name, "rss_mib": {"train": by_name["rss_mib"]}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[45_000, 450_000])
    parser.add_argument("--per-shard", type=int, default=1_000)
    arguments = parse(parser, models=[200], per_shard=50)
    training = training_figures(arguments.models, arguments.per_shard)
    corpus = corpus_figures(arguments.models)
    print(json.dumps({**training, **corpus, "rss_mib": {**training["rss_mib"], **corpus["rss_mib"]}}))


if __name__ == "__main__":
    main()
