"""Rates of this machine: some models are built and measured, and one layer of each encoder runs."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.cad.omnicad.listing import Entry
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.cad.parts import synthesis
from pipeline.corpus.build import members_of
from pipeline.corpus.prepare import PrepareTask, prepare, read_texts
from pipeline.corpus.synthetic import make_synthetic_zip
from pipeline.encoders.michelangelo import MichelangeloConfig, MichelangeloEncoder
from pipeline.evaluation.evaluator import PICTURE_SIZE
from pipeline.evaluation.real_models import no_real_models, real_path
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.features.build import models_per_pass
from pipeline.geometry.build import draw_task
from pipeline.geometry.draw import draw
from pipeline.metrics.assess import AssessTask, assess
from pipeline.planning.params import Params
from pipeline.planning.sizes import architecture_of, dinov2_sizes, image_shape, member_bytes, michelangelo_sizes
from pipeline.runtime.device import DTYPES, fastest_s, matrix_flops
from pipeline.runtime.errors import UserError


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured here.

    Attributes:
        corpus_s, geometry_s: seconds for one model, with all workers at work.
        corpus_bytes: of a model's JSON and program members.
        png_bytes: of a view.
        program_tokens, caption_tokens: means.
        image_s, points_s: seconds for one model's views, for one cloud.
        assess_s: seconds to build and measure one generated model, with all workers at work.
        flops: of matrix products, per second: in float32 on a CPU, in the dtype of training on a GPU.
        num_models: so many models were built.
        num_real: models at ``transfer.path`` that are measured on.
    """

    corpus_s: float
    geometry_s: float
    corpus_bytes: tuple[float, float]
    png_bytes: float
    program_tokens: float
    caption_tokens: float
    image_s: float
    points_s: float
    assess_s: float
    flops: float
    num_models: int
    num_real: int


def measure(
    p: Params, folder: Path, num_models: int, num_workers: int, device: torch.device, say: Callable[[str], None]
) -> Rates:
    """Build some models and run the encoders' layers; takes half a minute.

    Args:
        folder: for temporary files.
    """
    source = Path(p.data.path)
    if p.data.source == "synthetic" or not source.exists():
        if p.data.source != "synthetic":
            say(f"{source} is not here: synthetic parts are measured in its place")
        source = folder / "sample.zip"
        families = p.data.synthetic.families or tuple(synthesis.FAMILIES)
        synthetic = p.data.synthetic.model_copy(update={"num_models": num_models, "families": families})
        make_synthetic_zip(source, p.data.model_copy(update={"synthetic": synthetic}), p.seed)
    entries = open_dataset(source.resolve()).listing()
    places = {len(entries) * i // num_models for i in range(min(num_models, len(entries)))}
    chosen = [entry for place, entry in enumerate(entries) if place in places]
    say(f"building {len(chosen)} models with {num_workers} worker{'s' * (num_workers > 1)}")
    records, corpus_s = _timed_prepare(p, source.resolve(), chosen, num_workers)
    drawn, geometry_s = _timed_draw(p, source.resolve(), records, num_workers)
    pngs = [len(data) for members in drawn for name, data in members.items() if name.endswith(".png")]
    say("running one layer of each encoder")
    return Rates(
        corpus_s=corpus_s,
        geometry_s=geometry_s,
        corpus_bytes=_corpus_bytes(records),
        png_bytes=float(np.mean([member_bytes(size) for size in pngs])),
        program_tokens=float(np.mean([len(record["tokens"]) for record in records])),
        caption_tokens=float(np.mean([len(record["caption"]) for record in records])) / 4,
        image_s=_image_seconds(p, device) * p.geometry.num_views,
        points_s=_points_seconds(p, device),
        assess_s=_timed_assess(p, records, drawn, num_workers),
        flops=matrix_flops(device, torch.float32 if device.type == "cpu" else DTYPES[p.training.dtype]),
        num_models=len(chosen),
        num_real=_num_real(p),
    )


def _corpus_bytes(records: list[dict[str, Any]]) -> tuple[float, float]:
    sizes = [[member_bytes(len(data)) for data in members_of(record).values()] for record in records]
    document, program = np.mean(sizes, axis=0).tolist()
    return document, program


def _timed_prepare(
    p: Params, source: Path, entries: list[Entry], num_workers: int
) -> tuple[list[dict[str, Any]], float]:
    texts = read_texts(open_dataset(source), entries, Rejects())
    tasks = [PrepareTask(e, text, p.codec.bits, p.codec.tolerance, p.data.max_program_tokens) for e, text in texts]
    with Sandbox(prepare, num_workers, p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        list(sandbox.map(tasks[:1] * num_workers))  # workers come up
        started = time.perf_counter()
        answers = list(sandbox.map(tasks))
        seconds = time.perf_counter() - started
    records = [answer for answer in answers if not isinstance(answer, Failure)]
    if not records:
        raise UserError(f"no model of {source} can be used, of {len(entries)} tried; `cadmllm corpus` says why")
    return records, seconds / len(tasks)


def _timed_draw(
    p: Params, source: Path, records: list[dict[str, Any]], num_workers: int
) -> tuple[list[dict[str, bytes]], float]:
    dataset = open_dataset(source)
    tasks = [draw_task(dataset, record, p.geometry, p.seed) for record in records]
    with Sandbox(draw, num_workers, p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        list(sandbox.map(tasks[:1] * num_workers))
        started = time.perf_counter()
        answers = list(sandbox.map(tasks))
        seconds = time.perf_counter() - started
    drawn = [answer for answer in answers if not isinstance(answer, Failure)]
    if not drawn:
        raise UserError(f"no model of {source} can be drawn, of {len(tasks)} tried; `cadmllm geometry` says why")
    return drawn, seconds / len(tasks)


def _timed_assess(p: Params, records: list[dict[str, Any]], drawn: list[dict[str, bytes]], num_workers: int) -> float:
    """As if each model had been generated where the next one was asked for."""
    tokens = [tuple(record["tokens"]) for record in records]
    clouds = [np.load(io.BytesIO(members["points.npy"]), allow_pickle=False) for members in drawn]
    tasks = [
        AssessTask(own, true, p.codec.bits, cloud, p.evaluation.num_points, p.seed, PICTURE_SIZE)
        for own, true, cloud in zip(tokens, [*tokens[1:], tokens[0]], clouds, strict=False)
    ]
    with Sandbox(assess, num_workers, p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        list(sandbox.map(tasks[:1] * num_workers))
        started = time.perf_counter()
        list(sandbox.map(tasks))
        return (time.perf_counter() - started) / len(tasks)


def _num_real(p: Params) -> int:
    if no_real_models(p) is not None:
        return 0
    return min(len(open_dataset(real_path(p).absolute()).listing()), p.transfer.limit)


def _by_layers(seconds: Callable[[int], float], num_layers: int) -> float:
    """Time of all layers from that of one and of two."""
    one, two = seconds(1), seconds(2)
    return one + max(two - one, 0.0) * (num_layers - 1)


def _image_seconds(p: Params, device: torch.device) -> float:
    """Seconds for one image, in passes as `features` makes them."""
    from transformers import Dinov2Config, Dinov2Model

    width, layers, heads = dinov2_sizes(p.models.image_encoder)
    grid = int(image_shape(p, pool=1)[1] ** 0.5)
    patch = architecture_of(p.models.image_encoder).get("patch_size", 14)
    views = p.geometry.num_views * models_per_pass(p.features.image.batch_size // p.geometry.num_views, device)
    pixels = torch.zeros(views, 3, grid * patch, grid * patch, device=device)

    def seconds(num_layers: int) -> float:
        config = Dinov2Config(
            hidden_size=width,
            num_hidden_layers=num_layers,
            num_attention_heads=heads,
            patch_size=patch,
            image_size=grid * patch,
        )
        model = Dinov2Model(config).eval().to(device)
        return fastest_s(lambda: model(pixel_values=pixels), device) / views

    return _by_layers(seconds, layers)


def _points_seconds(p: Params, device: torch.device) -> float:
    config = michelangelo_sizes(p.models.point_cloud_encoder)
    batch_size = models_per_pass(p.features.point_cloud.batch_size, device)
    clouds = torch.zeros(batch_size, p.geometry.num_points, 6, device=device)

    def seconds(num_layers: int) -> float:
        sized = MichelangeloConfig(config.width, config.num_heads, num_layers, config.num_latents)
        encoder = MichelangeloEncoder(sized).eval().to(device)
        return fastest_s(lambda: encoder(clouds), device) / batch_size

    return _by_layers(seconds, config.num_layers)
