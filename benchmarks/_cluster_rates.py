"""What ``cluster_model.py`` measures here: processor time, which others on this machine do not take, of one core.

Times of models are those of the real commands' own functions, in the same sandbox.
"""

import hashlib
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cluster_check import on_ray
from _cluster_work import WORK, Handed, Handing, Timed, handed, timed
from torch.utils.flop_counter import FlopCounterMode

from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.cad.omnicad.listing import Entry
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.corpus.build import members_of
from pipeline.corpus.prepare import PrepareTask, read_texts
from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.encoders.michelangelo import MichelangeloEncoder
from pipeline.evaluation.evaluator import PICTURE_SIZE
from pipeline.execution.pool import Failure, Pool
from pipeline.execution.sandbox import Sandbox, start_server
from pipeline.features.build import member_of
from pipeline.geometry.build import draw_task
from pipeline.metrics.assess import AssessTask
from pipeline.planning.params import Params
from pipeline.planning.sizes import dinov2_sizes, image_shape, michelangelo_sizes, points_shape
from pipeline.runtime.scratch import Journal
from pipeline.runtime.seeds import generator
from pipeline.shards import embeddings
from pipeline.shards.pictures import decode_png
from pipeline.shards.writer import write_shard

HASHED = 1 << 26  # bytes that are hashed
PATCH = 14


@dataclass(frozen=True, slots=True)
class Models:
    """What was measured of models.

    Attributes:
        seconds: of a core, for each model, by what was done: ``corpus``, ``geometry``, ``assess``.
        hand_s: of the process that deals models out and writes shards, for each model, by pool and pipeline stage.
        corpus_bytes: of JSON and program; png_bytes: of a view; raw_bytes: of a model's file.
        program_tokens, caption_tokens: means.
        pngs: all views, model by model.
    """

    seconds: dict[str, np.ndarray]
    hand_s: dict[str, dict[str, float]]
    corpus_bytes: tuple[float, float]
    png_bytes: float
    raw_bytes: float
    program_tokens: float
    caption_tokens: float
    pngs: list[bytes]


def fit(seconds: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the logarithms of a lognormal distribution with the mean that was measured.

    The likeliest one has a lower mean: a few models take far longer than it expects.
    """
    spread = float(np.log(seconds).std())
    return math.log(seconds.mean()) - spread**2 / 2, spread


def _worked(name: str, tasks: Sequence[Any], p: Params) -> list[Timed]:
    with Sandbox(timed, 1, 10 * p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        list(sandbox.map([(name, tasks[0])]))  # it comes up
        answers = list(sandbox.map((name, task) for task in tasks))
    return [answer for answer in answers if not isinstance(answer, Failure)]


def measure_models(p: Params, source: Path, entries: list[Entry], folder: Path, with_ray: bool) -> Models:
    """Models prepared, drawn and judged; and what dealing them out costs, with nothing done for them."""
    start_server("_cluster_work")
    dataset, started = open_dataset(source), time.process_time()
    texts = read_texts(dataset, entries, Rejects())
    tasks = [PrepareTask(e, text, p.codec.bits, p.codec.tolerance, p.data.max_program_tokens) for e, text in texts]
    reading_s = (time.process_time() - started) / len(tasks)
    prepared = _worked("corpus", tasks, p)
    records = [each.made for each in prepared]
    drawing = [draw_task(dataset, record, p.geometry, p.seed) for record in records]
    drawn = _worked("geometry", drawing, p)
    judged = _worked("assess", _assess_tasks(p, records, [each.made for each in drawn]), p)
    corpus = [members_of(record) for record in records]
    geometry = [each.made for each in drawn]
    writing = {
        "corpus": reading_s + _journal_s(records, tasks, folder) + _writing_s(corpus, folder / "corpus.tar"),
        "geometry": _writing_s(geometry, folder / "geometry.tar"),
    }
    pools: dict[str, Callable[[], Pool[Any, Any]]] = {"local": lambda: Sandbox(handed, 1, 60, p.kernel.memory_mib)}
    if with_ray:
        from pipeline.execution.cluster import CHUNK

        pools["ray"] = lambda: on_ray(1, Handing(), CHUNK)
    hand_s = {
        kind: {
            "corpus": writing["corpus"] + _dealing_s(make(), tasks, corpus),
            "geometry": writing["geometry"] + _dealing_s(make(), drawing, geometry),
        }
        for kind, make in pools.items()
    }
    pngs = [data for each in geometry for name, data in each.items() if name.endswith(".png")]
    document, program = np.mean([[len(data) for data in each.values()] for each in corpus], axis=0).tolist()
    return Models(
        {name: np.array([e.seconds for e in each]) for name, each in zip(WORK, (prepared, drawn, judged), strict=True)},
        hand_s,
        (document, program),
        float(np.mean([len(png) for png in pngs])),
        float(np.mean([len(task.text) for task in tasks])),
        float(np.mean([len(record["tokens"]) for record in records])),
        float(np.mean([len(record["caption"]) for record in records])) / 4,
        pngs,
    )


def _assess_tasks(p: Params, records: list[dict[str, Any]], drawn: list[dict[str, bytes]]) -> list[AssessTask]:
    """As if each model had been generated where the next one was asked for."""
    tokens = [tuple(record["tokens"]) for record in records]
    clouds = [np.load(io.BytesIO(members["points.npy"]), allow_pickle=False) for members in drawn]
    return [
        AssessTask(own, true, p.codec.bits, cloud, p.evaluation.num_points, p.seed, PICTURE_SIZE)
        for own, true, cloud in zip(tokens, [*tokens[1:], tokens[0]], clouds, strict=False)
    ]


def _journal_s(records: list[dict[str, Any]], tasks: list[PrepareTask], folder: Path) -> float:
    started = time.process_time()
    with Journal(folder) as journal:
        for record, task in zip(records, tasks, strict=False):
            journal.add(task.identity, record)
    return (time.process_time() - started) / len(records)


def _writing_s(members: list[dict[str, bytes]], path: Path) -> float:
    write_shard(path, [("0", members[0])])  # imports
    started = time.process_time()
    write_shard(path, ((str(number), each) for number, each in enumerate(members)))
    return (time.process_time() - started) / len(members)


def _dealing_s(pool: Pool[Any, Any], tasks: Sequence[Any], made: list[dict[str, bytes]]) -> float:
    """Of this process, for each task; workers send back as much as the models have, ten times over."""
    items = [
        Handed(task, {name: len(data) for name, data in each.items()}) for task, each in zip(tasks, made, strict=False)
    ] * 10
    with pool:
        list(pool.map(items[:1]))  # a worker comes up
        started = time.process_time()
        for _ in pool.map(items):
            pass
        return (time.process_time() - started) / len(items)


def loading_s(p: Params, folder: Path, pngs: list[bytes]) -> float:
    """Of a core, to decode and preprocess a model's views; the encoder's own size does not matter to it."""
    from transformers import AutoModel, BitImageProcessorPil, Dinov2Config

    size = image_shape(p, pool=1)[1] ** 0.5 * PATCH
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, patch_size=PATCH, image_size=518)
    AutoModel.from_config(config).save_pretrained(folder)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    crop = {"height": int(size), "width": int(size)}
    BitImageProcessorPil(size={"shortest_edge": 256}, crop_size=crop, image_mean=mean, image_std=std).save_pretrained(
        folder
    )
    encoder, views, times = DinoV2Encoder(folder, 1), p.geometry.num_views, []
    for start in range(0, len(pngs) - views + 1, views):
        started = time.process_time()
        encoder.preprocess([decode_png(png) for png in pngs[start : start + views]])
        times.append(time.process_time() - started)
    return float(np.median(times))


def storing_s(p: Params, folder: Path, modality: str) -> float:
    """Of a core, to round a model's embeddings and write them."""
    shape = image_shape(p) if modality == "image" else points_shape(p)
    dtype = getattr(p.features, modality).dtype
    tokens = generator("tokens").normal(size=shape).astype(np.float32)
    started = time.process_time()
    made = [embeddings.members(member_of(modality), tokens, dtype) for _ in range(32)]
    return (time.process_time() - started) / len(made) + _writing_s(made, folder / f"{modality}.tar")


def hashing_bytes_per_s() -> float:
    """MD5, as DVC hashes, on one core."""
    data = bytes(HASHED)
    started = time.process_time()
    hashlib.md5(data, usedforsecurity=False)
    return HASHED / (time.process_time() - started)


def encoder_flops(p: Params) -> dict[str, int]:
    """Operations for one model, of the encoders' own modules, on tensors that hold nothing."""
    from transformers import Dinov2Config, Dinov2Model

    width, layers, heads = dinov2_sizes(p.models.image_encoder)
    pixels = round(image_shape(p, pool=1)[1] ** 0.5) * PATCH
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, patch_size=PATCH, image_size=pixels
    )
    with torch.device("meta"), torch.no_grad():
        image = Dinov2Model(config).eval().requires_grad_(False)
        points = MichelangeloEncoder(michelangelo_sizes(p.models.point_cloud_encoder)).eval()
        points.requires_grad_(False)
        with FlopCounterMode(display=False) as of_image:
            image(pixel_values=torch.zeros(p.geometry.num_views, 3, pixels, pixels))
        with FlopCounterMode(display=False) as of_points:
            points(torch.zeros(1, p.geometry.num_points, 6))
    return {"image": of_image.get_total_flops(), "point_cloud": of_points.get_total_flops()}
