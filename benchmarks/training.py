"""A training step against a plain loop and against the curriculum document's way: prints one JSON object.

    python benchmarks/training.py [DATASET] [--models N] [--samples 64] [--rounds 3] [--folder DIR]

SmolLM2-135M with LoRA on real Omni-CAD models, stage 3 (text, points, images), float32, no dropout, in one run:

- ``ours``: steps of ``Trainer`` on the samples in its own order, reading features included.
- ``plain``: transformers and PEFT as they come: batches in the order of the index, padded to the longest, logits over
  the language model's whole vocabulary and the CAD tokens at every position, the loss over the CAD tokens (so that it
  is the same number, which is checked).
- ``document``: DINOv2-large and Michelangelo in every step, the model's JSON as target, cut at and padded to a fixed
  length, a sample at a time.

The sides take turns and the medians of their ratios are reported, since machines drift. ``--folder`` keeps the prepared
features for the next time. ``gemm_fraction`` is MFU: of what the machine reaches in square matrix products.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _common import ROOT, add_dataset, in_child, parse, read_dataset
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.log import StageLog
from pipeline.curriculum.place import Place
from pipeline.curriculum.plan import Example, Step
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.inputs import Inputs, collate
from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.runtime.device import matrix_flops
from pipeline.runtime.device import peak_memory as memory_peak
from pipeline.runtime.seeds import generator
from pipeline.shards.reader import ShardReader
from pipeline.training.loop import Job, Trainer
from pipeline.training.meters import FlopCount
from pipeline.training.parallel import Parallel
from pipeline.training.session import make_model
from stages.cli import app

STAGES = ("stage1_text", "stage2_text_pc", "stage3_all")
CPU = torch.device("cpu")


def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """A project in ``folder`` with the features of the models; nothing is done twice."""
    if not (folder / "presets").is_dir():
        (folder / "presets").symlink_to(ROOT / "presets")
    os.chdir(folder)
    document = presets.compose(arguments.preset)
    path = read_dataset(arguments, folder)[0].resolve()
    data = {**presets.overlay("omnicad-cpu")["data"], "path": str(path), "limit": arguments.models}
    presets.merge(document, {"data": data, "training": {"tokens_per_batch": 768}}, "")
    presets.write(document, folder / "params.yaml")
    commands = ["models", "corpus", "geometry", "features --modality image", "features --modality point_cloud"]
    outs = ["models", "data/corpus", "data/geometry", "data/features/image", "data/features/point_cloud"]
    for command, out in zip(commands, outs, strict=True):
        if not (folder / out).is_dir():
            in_child(folder, run_command, command)


def run_command(command: str) -> None:
    """``cadmllm``; stdout is for the figures."""
    with contextlib.redirect_stdout(sys.stderr):
        app(command.split(), standalone_mode=False)


def set_up(stage: str, splits: Sequence[str] = ("train",)) -> tuple[Params, CadMllmModel, tuple[TrainingData, ...]]:
    """The model of a stage, fresh, and splits of the corpus."""
    p = Params.load()
    place = Place(stage, 1, p.curriculum[stage], {})
    model = make_model(p, place, CPU)
    common = model.tokenizer, p.model.max_caption_tokens, model.notation
    data = (TrainingData(Path("data/corpus"), place.features, split, *common) for split in splits)
    return p, model, tuple(data)


def make_trainer(
    p: Params, stage: str, model: CadMllmModel, data: TrainingData, validation: TrainingData | None = None
) -> Trainer:
    """A trainer of the stage as ``cadmllm train`` makes it, in a scratch folder of its own."""
    scratch = Path(tempfile.mkdtemp())
    job = Job(
        stage=p.curriculum[stage],
        training=p.training,
        train=data,
        validation=validation or data,
        seed=p.seed,
        scratch=scratch,
        parallel=Parallel(p.training),
        save_best=lambda *_: None,
        open_log=lambda kept: StageLog(scratch / "log", kept, scratch / "speed", True, lambda _: None),
        show=lambda *_: None,
        say=lambda _: None,
    )
    return Trainer(model, job)


def run_ours(p: Params, model: CadMllmModel, data: TrainingData) -> tuple[float, float, float]:
    """One pass over the samples: seconds, MFU, share of the time spent waiting for data.

    MFU is of square matrix products, measured after every step, since they drift within a pass; that takes no part in
    the seconds.
    """
    trainer, count = make_trainer(p, "stage3_all", model, data), FlopCount(model)
    seconds = flops = waited = 0.0
    matrix = []
    for _ in range(trainer.plan.steps_per_epoch):
        started = time.perf_counter()
        step, batches = next(trainer.steps)
        waited += time.perf_counter() - started
        trainer.optimize(batches, step.num_targets).loss.item()
        seconds += time.perf_counter() - started
        flops += sum(count(batch) for batch, _ in batches)
        matrix.append(matrix_flops(CPU, size=2048))
    return seconds, flops / seconds / statistics.mean(matrix), waited / seconds


def plain_loss(model: CadMllmModel, inputs: Sequence[Inputs]) -> Tensor:
    """Sum of the loss as transformers has it: a mask, every position, every token."""
    row = collate(inputs, model.num_tokens())
    batch = replace(row, gather_BL=pad_sequence(list(row.gather_BL[0].split_with_sizes(row.lengths)), batch_first=True))
    base = model.causal_lm
    hidden = base.model(
        inputs_embeds=model.embed(batch), attention_mask=batch.gather_BL.ne(0).long(), use_cache=False
    ).last_hidden_state
    head = torch.cat([model.text_embedding.table.weight, base.get_output_embeddings().weight])
    logits = hidden @ head.T
    labels = torch.full(row.gather_BL.shape, -100)
    labels[0, row.loss_positions] = row.targets
    labels = pad_sequence(list(labels[0].split_with_sizes(row.lengths)), batch_first=True, padding_value=-100)
    known = logits[..., len(model.text_embedding.table.weight) :]
    return F.cross_entropy(known.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100)


def run_plain(model: CadMllmModel, data: TrainingData, examples: Sequence[Example], batch_size: int) -> float:
    """One pass over the samples in the order as they come: seconds."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    started = time.perf_counter()
    for first in range(0, len(examples), batch_size):
        chosen = examples[first : first + batch_size]
        loss = plain_loss(model, data.load(chosen)) / sum(e.num_targets for e in chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    return time.perf_counter() - started


def document_encoders(smallest: bool) -> tuple[Any, Any]:
    """Networks of the released sizes, or of the smallest, with random weights."""
    from transformers import Dinov2Config, Dinov2Model

    from pipeline.encoders.michelangelo import MichelangeloConfig, MichelangeloEncoder

    width, heads, layers = (16, 1, 1) if smallest else (1024, 16, 24)
    images = Dinov2Config(
        hidden_size=width, num_attention_heads=heads, num_hidden_layers=layers, patch_size=14, image_size=518
    )
    points = MichelangeloConfig(16, 2, 1, 4) if smallest else MichelangeloConfig(768, 12, 8, 256)
    return Dinov2Model(images).eval(), MichelangeloEncoder(points).eval()


class DocumentWay:
    """The document's script: encoders in the step, JSON as text, one length for all."""

    def __init__(self, p: Params, model: CadMllmModel, data: TrainingData) -> None:
        self.model, self.data, self.num_views = model, data, p.model.views_per_sample
        self.images, self.points = document_encoders(p.preset == "smoke")
        self.dataset = open_dataset(Path(p.data.path))
        self.geometry = ShardReader(Path("data/geometry"), "geometry")
        widths = (self.images.config.hidden_size, self.points.config.width)
        self.projectors = torch.nn.ModuleList([torch.nn.Linear(width, model.width) for width in widths])
        self.trained = [*model.lora().values(), *self.projectors.parameters()]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-3)

    def json_tokens(self, row: int) -> list[int]:
        """A sample's JSON without spaces, in the language model's tokens."""
        document = json.loads(self.dataset.read(f"json/{self.data.id(row)}.json"))
        text = json.dumps(document, separators=(",", ":"))
        ids: list[int] = self.model.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def step(self, row: int, max_length: int) -> float:
        """One sample: seconds."""
        started = time.perf_counter()
        cloud = torch.from_numpy(self.geometry.array(self.geometry.row(self.data.key(row)), "points.npy"))[None]
        with torch.no_grad():
            seen = self.images(pixel_values=torch.zeros(self.num_views, 3, 224, 224)).last_hidden_state[:, :1]
            shape = self.points(cloud)
        shape = shape if isinstance(shape, Tensor) else shape[0]
        ids = [*self.data.tokenised([row])[0], *self.json_tokens(row)][:max_length]
        ids += [self.model.tokenizer.eos_token_id] * (max_length - len(ids))
        table = self.model.text_embedding.table.weight
        text = F.embedding(torch.tensor(ids), table)
        parts = [self.projectors[0](seen).flatten(0, 1), self.projectors[1](shape.reshape(-1, shape.shape[-1])), text]
        embeds = torch.cat(parts)[None]
        hidden = self.model.causal_lm.model(
            inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2]), use_cache=False
        ).last_hidden_state
        logits = hidden[0, -max_length:] @ table.T
        loss = F.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()
        return time.perf_counter() - started


def as_peft_has_it(model: CadMllmModel) -> None:
    """Take the fused operations out again."""
    for module in model.modules():
        module.__dict__.pop("forward", None)


def peak_memory(stage: str, encoders: bool) -> float:
    """GiB of a few steps of a stage in this process."""
    p, model, (data,) = set_up(stage)
    loaded = document_encoders(p.preset == "smoke") if encoders else ()
    trainer = make_trainer(p, stage, model, data)

    def length(step: Step) -> int:
        return sum(data.lengths(step.examples, data.prompts(step.examples), trainer.num_tokens))

    longest = sorted(trainer.plan.steps(), key=length)
    for step in longest[-2:]:
        if loaded:
            with torch.no_grad():
                loaded[0](pixel_values=torch.zeros(2 * len(step.examples), 3, 224, 224))
                loaded[1](torch.zeros(len(step.examples), 4096, 6))
        trainer.optimize(
            list(data.batches(step.examples, p.training.tokens_per_batch, model.num_tokens(), 0, 1)), step.num_targets
        )
    return memory_peak(CPU) / (1 << 30)


def peak_memories(stages: Sequence[str], encoders: bool) -> dict[str, float]:
    """``peak_memory`` of each stage, in processes of their own."""
    return {name: round(in_child(Path.cwd(), peak_memory, name, encoders), 2) for name in stages}


def against_plain(
    p: Params, ours: CadMllmModel, plain: CadMllmModel, data: TrainingData, rounds: int
) -> dict[str, Any]:
    """Medians over rounds in which both sides take their turn."""
    plan = make_trainer(p, "stage3_all", ours, data).plan
    epoch = itertools.islice(plan.steps(), plan.steps_per_epoch)
    examples = sorted((example for step in epoch for example in step.examples), key=lambda e: e.row)
    batch_size = p.training.batch_size
    with torch.no_grad():
        loaded = data.load(examples[:batch_size])
        one, other = ours(collate(loaded, ours.num_tokens())).item(), plain_loss(plain, loaded).item()
    assert abs(one - other) / other < 1e-3, (one, other)
    over_plain, fractions, waits, per_sample = [], [], [], []
    for _ in range(rounds):
        seconds, fraction, wait = run_ours(p, ours, data)
        over_plain.append(run_plain(plain, data, examples, batch_size) / seconds)
        fractions.append(fraction)
        waits.append(wait)
        per_sample.append(seconds / len(examples))
        print(f"ours {seconds:.1f} s, plain {over_plain[-1]:.2f} times as long", file=sys.stderr, flush=True)
    return {
        "over_plain": round(statistics.median(over_plain), 2),
        "gemm_fraction": round(statistics.median(fractions), 3),
        "data_wait_share": round(statistics.median(waits), 4),
        "seconds_per_sample": round(statistics.median(per_sample), 3),
        "batch_size_plain": batch_size,
        "loss_difference": abs(one - other) / other,
    }


def against_document(
    p: Params, ours: CadMllmModel, plain: CadMllmModel, data: TrainingData, rounds: int, max_length: int
) -> float:
    """Median over rounds of the seconds of a sample; at 4,096 on models whose JSON fits."""
    document = DocumentWay(p, plain, data)
    if max_length >= 4096:
        data.keep([row for row in range(len(data)) if len(document.json_tokens(row)) < max_length - 80])
    ratios = []
    for number in range(rounds):
        seconds = run_ours(p, ours, data)[0] / len(data)
        ratios.append(document.step(number, max_length) / seconds)
        print(f"document at {max_length}: {ratios[-1]:.1f} times as long", file=sys.stderr, flush=True)
    return round(statistics.median(ratios), 1)


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    rounds, (short, long) = arguments.rounds, arguments.lengths
    memory = {  # first: autograd works in no fork of a process in which it has worked
        "peak_memory_gib": peak_memories(arguments.stages, False),
        "peak_memory_with_encoders_gib": peak_memories([name for name in arguments.stages if name != STAGES[0]], True),
    }
    torch.manual_seed(0)
    p, ours, (data,) = set_up("stage3_all")
    plain = set_up("stage3_all")[1]
    as_peft_has_it(plain)
    plain.set_trainable_params(True, ("point_cloud", "image"), "new")
    chosen = generator("samples").permutation(len(data))[: arguments.samples]
    data.keep(sorted(chosen.tolist()))
    return {
        **against_plain(p, ours, plain, data, rounds),
        f"over_document_{short}": against_document(p, ours, plain, data, rounds, short),
        f"over_document_{long}": against_document(p, ours, plain, data, max(1, rounds - 1), long),
        "samples": len(chosen),
        **memory,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset(parser)
    parser.add_argument("--preset", default="smollm2", help="whose networks are trained; default: smollm2")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs=2, default=(1024, 4096), help="of the document's sequences")
    parser.add_argument("--stages", choices=STAGES, nargs="+", default=STAGES, help="whose memory is measured")
    parser.add_argument("--folder", type=Path, help="where the prepared features are kept; default: nowhere")
    given = parse(parser, preset="smoke", models=12, samples=4, rounds=1, lengths=(64, 128), stages=STAGES[-1:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, given)
        print(json.dumps(main(given)))
