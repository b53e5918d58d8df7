"""The same recipe with more and more synthetic parts: prints one JSON object.

    python benchmarks/scaling.py [DATASET] [--limit N] [--parts 100,1000,5000] [--steps 600] [--folder DIR]

Corpora as the preset ``pretraining`` has them; a part follows from seed and number alone, so the larger ones begin with
the smaller. On each, ``cadmllm pretrain reconstruction`` trains the shipped encoder of clouds on, with a new language
model; network, steps, batches and rate are the same, and smaller than the preset's. As many are trained at once as
there are cores, each on one. With ``--folder`` what was stopped goes on where it was. Of each size:

- ``programs`` that were trained on, and ``epochs``, how often each was seen;
- ``held_out_loss``: cross-entropy of a program's token, from clouds alone, faults of a scan included. The parts are the
  validation split of the largest corpus for all, and none was trained on. ``seen_loss``: the same of the smallest
  corpus' training split, which all were trained on;
- ``real``: programs for real models from clouds alone, greedy; the figures are those of ``reconstruction.py``.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from _common import ROOT, add_dataset, parse, read_dataset
from _reconstruction import Answer, Part, Shown, judged, work
from reconstruction import Ways, summary
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.cad.language.codec import Codec
from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.encoders.michelangelo import MichelangeloEncoder
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.generation.pretrained import CadMllm
from pipeline.generation.untrained import write_untrained
from pipeline.model.projector import start_from_pretrained
from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.pretraining.data import program_hashes
from pipeline.pretraining.reconstruction import (
    ReconstructionBatches,
    ReconstructionTraining,
    mean_losses,
    new_projector,
)
from pipeline.settings.places import CORPUS, MODELS, SHIPPED
from pipeline.shards.reader import CorpusReader
from pipeline.weights.resolve import build_models
from pipeline.weights.settings import Model
from stages.cli import app
from stages.tools.pretrain.common import ALIGNED, LANGUAGE_MODEL, RECONSTRUCTION, SHAPE_ENCODER

SEED = 7  # of corpora that no shipped network was trained on
NETWORK = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4}
RECIPE = {"batch_size": 32, "num_points": 256}
SMALLEST = {
    "data": {"split": {"validation": 0.3, "test": 0.2}},
    "pretraining": {"reconstruction": {"batch_size": 2, "num_points": 64}},
}
COMMANDS = {"models": MODELS, "corpus": CORPUS, "pretrain reconstruction": RECONSTRUCTION}


def make_project(folder: Path, parts: int, steps: int, smallest: bool) -> None:
    """The preset with so many parts and a smaller network, and the encoder where the command looks for it.

    What the shipped encoder was trained on is left out of validation, as wherever it is named as a source.
    """
    document = presets.compose("pretraining")
    changes: dict[str, Any] = {
        "seed": SEED,
        "models": {
            "llm": {"architecture": {**document["models"]["llm"]["architecture"], **NETWORK}},
            "point_cloud_encoder": {"source": f"shipped:{SHAPE_ENCODER}"},
        },
        "data": {"synthetic": {"num_models": parts}},
        "pretraining": {"reconstruction": {**RECIPE, "steps": steps}},
    }
    for each in (changes, SMALLEST) if smallest else (changes,):
        presets.merge(document, each, "")
    made = folder / "params.yaml"
    before = made.read_bytes() if made.exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    presets.write(document, made)
    if before not in (None, made.read_bytes()):
        made.write_bytes(before)
        sys.exit(f"{folder} was begun with other settings; name another --folder")
    shutil.copytree(SHIPPED / SHAPE_ENCODER, folder / ALIGNED / SHAPE_ENCODER, dirs_exist_ok=True)


def train(folder: Path) -> None:
    """Do what is left in a project, on one core; stdout is for the figures."""
    os.chdir(folder)
    torch.set_num_threads(1)
    for command, out in COMMANDS.items():
        with contextlib.redirect_stdout(sys.stderr):
            if not out.is_dir() and app(command.split(), standalone_mode=False):
                sys.exit(f"`cadmllm {command}` has failed in {folder}")


def trained(folder: Path, p: Params) -> tuple[Any, ReconstructionTraining]:
    """The tokenizer and the networks that a project has made."""
    source = folder / RECONSTRUCTION
    encoder = MichelangeloEncoder.from_pretrained(source / SHAPE_ENCODER)
    llm = AutoModelForCausalLM.from_pretrained(source / LANGUAGE_MODEL, dtype=torch.float32, use_safetensors=True)
    shape = (1 + encoder.config.num_latents, encoder.config.width)
    projector = new_projector(p.model.projectors.point_cloud, shape, llm)
    assert start_from_pretrained(projector, source / LANGUAGE_MODEL, "point_cloud")
    tokenizer = AutoTokenizer.from_pretrained(source / LANGUAGE_MODEL)
    return tokenizer, ReconstructionTraining(encoder, {"point_cloud": projector}, llm)


def losses(folder: Path, held_out: CorpusReader, seen: CorpusReader) -> dict[str, Any]:
    """What a project was trained on, and its losses."""
    p, own = Params.load(folder / "params.yaml"), CorpusReader(folder / CORPUS)
    assert p.pretraining is not None
    recipe = p.pretraining.reconstruction.model_copy(update={"modality_sample_probs": {"point_cloud": 1.0}})
    rows = own.rows("train")
    asked = {
        "held_out_loss": (held_out, held_out.rows("validation")),
        "seen_loss": (seen, seen.rows("train")),
    }
    of_split = {name: program_hashes(*each) for name, each in asked.items()}
    known = program_hashes(own, rows)
    assert known.isdisjoint(of_split["held_out_loss"])
    assert known >= of_split["seen_loss"]
    tokenizer, module = trained(folder, p)
    limit, codec = p.model.max_caption_tokens, Codec(p.codec.bits)
    found = {
        name: mean_losses(module, ReconstructionBatches.of_rows(*each, tokenizer, limit, codec, recipe, SEED))
        for name, each in asked.items()
    }
    return {
        "programs": len(rows),
        "epochs": round(recipe.steps * recipe.batch_size / len(rows), 2),
        **{name: each["point_cloud"] for name, each in found.items()},
    }


def checkpoint(folder: Path) -> CadMllm:
    """What a project has trained, as users have it."""
    p, source, models = Params.load(folder / "params.yaml"), folder / RECONSTRUCTION, folder / "trained"
    sources = {"llm": source / LANGUAGE_MODEL, "point_cloud_encoder": source / SHAPE_ENCODER}
    update = {name: Model.model_validate({"source": f"path:{path}"}) for name, path in sources.items()}
    build_models(p.models.model_copy(update=update), SEED, folder / "scratch" / "trained", models, lambda *_: None)
    write_untrained(p.model, p.codec.bits, p.features, p.geometry, SEED, models, folder / "checkpoint")
    return CadMllm.from_pretrained(folder / "checkpoint", models, device="cpu")


def on_real(model: CadMllm, parts: list[Part], shown: list[Shown], sandbox: Sandbox[Any, Any]) -> dict[str, Any]:
    """Figures of the programs that a model writes at once for what it is shown."""
    ways, answers, seconds = Ways(model, model.model.grammar.bits, 0.0), [], []
    for part, each in zip(parts, shown, strict=True):
        started = time.perf_counter()
        answers.append(Answer(part, ways.write("greedy", each, ""), ways.bits, each.true_points))
        seconds.append(time.perf_counter() - started)
    found = zip(judged(sandbox, answers), seconds, strict=True)
    return summary([{**figures, "seconds": taken} for figures, taken in found])


def measure(folders: dict[int, Path], parts: list[Part]) -> dict[str, Any]:
    """Figures of each size."""
    corpora = [CorpusReader(folder / CORPUS) for folder in folders.values()]
    figures = {}
    with Sandbox(work, cores(), 60, 4096) as sandbox:
        shown = [each for each in sandbox.map(parts) if isinstance(each, Shown)]
        if len(shown) < len(parts):
            sys.exit(f"{len(parts) - len(shown)} models cannot be built")
        for number, folder in folders.items():
            real = on_real(checkpoint(folder), parts, shown, sandbox)
            figures[str(number)] = {**losses(folder, corpora[-1], corpora[0]), "real": real}
            print(number, figures[str(number)], file=sys.stderr, flush=True)
    return {
        "held_out_programs": len(corpora[-1].rows("validation")),
        "seen_programs": len(corpora[0].rows("train")),
        "models": len(parts),
        "of_parts": figures,
    }


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset(parser)
    parser.add_argument("--parts", default="100,1000,5000", help="of each corpus, the smallest first")
    parser.add_argument("--steps", type=int, default=600, help="of each training")
    parser.add_argument("--folder", type=Path, help="keep what is made here, and go on with it the next time")
    options = parse(parser, models=1, parts="10", steps=2)
    sizes = sorted(map(int, options.parts.split(",")))
    options.dataset = options.dataset.resolve()
    with tempfile.TemporaryDirectory() as name:
        place = (options.folder or Path(name)).resolve()
        os.chdir(ROOT)  # where the presets are
        folders = {parts: place / str(parts) for parts in sizes}
        for parts, folder in folders.items():
            make_project(folder, parts, options.steps, options.smoke)
        context = multiprocessing.get_context("fork" if options.smoke else "spawn")
        with ProcessPoolExecutor(cores(), context) as pool:
            list(pool.map(train, reversed(folders.values())))  # what takes longest first
        path, entries = read_dataset(options, Path(name))
        dataset = open_dataset(path)
        real = [Part(dataset.read(f"json/{entry.id}.json"), seed) for seed, entry in enumerate(entries)]
        print(json.dumps({"steps": options.steps, **RECIPE, **measure(folders, real)}))


if __name__ == "__main__":
    main()
