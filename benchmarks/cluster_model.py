"""All of Omni-CAD, and ten times it, on 1, 8 and 64 GPUs: hours, bytes, cost, bottleneck. Prints one JSON object.

    python benchmarks/cluster_model.py [DATASET] [--sample 60] [--models 453220 4532200] [--gpus 1 8 64] [--no-ray]

A simulated cluster (``_cluster.py``) runs preset `single-gpu`, once as it should be and once with a slow machine among
eight and machines that fail. ``rates`` says what it rests on:

- ``measured``: here, in processor time of one core, with some of the dataset's models (``_cluster_rates.py``);
- ``recorded``: measured elsewhere, and where that is written;
- ``assumed``: of what was not measured, each an option.

``check`` has real pools beside simulated ones (``_cluster_check.py``). In ``tables``, ``bounds_h`` says how long each
resource alone would take; the longest is the bottleneck, and what a pipeline stage takes beyond it is start-up, the
last units, and waiting. Training takes ``--samples-per-gpu`` to a step; ``preset_batch_hours`` is for the preset's own.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import _cluster_check as check
import _cluster_rates as measuring
import numpy as np
from _cluster import Cluster, simulate_pool, simulate_steps
from _common import OMNICAD, parse, read_dataset

from pipeline.curriculum.settings import CurriculumStage
from pipeline.execution.pool import AHEAD
from pipeline.features.build import READERS
from pipeline.planning import presets
from pipeline.planning.measure import Rates
from pipeline.planning.params import Params
from pipeline.planning.plan import plan, sample_tokens
from pipeline.planning.sizes import OMNICAD_MODELS, member_bytes, shard_counts
from pipeline.planning.training_memory import shown_tokens, step_memory
from pipeline.report.behaviour import TRAINED_BYTES
from pipeline.runtime.seeds import generator
from pipeline.settings import yaml_files

RECORDED = {
    "step_floor_s": (0.17, "docs/several-gpus.md: a step of 16 samples on an H100, which waits for its processor"),
    "step_tokens_per_s": (113_000.0, "docs/several-gpus.md: steps of 64 samples on an H100"),
    "start_s": (7.0, "docs/formats.md, benchmarks/scale.py: from `cadmllm train` to its first step"),
}
ASSUMED = {  # options: default, help
    "gpu-hour": (2.5, "price of an hour of one GPU, with its cores"),
    "core-hour": (0.04, "price of an hour of one core without GPU"),
    "cores-per-gpu": (16, "cores beside each GPU"),
    "gpus-per-machine": (8, "at most"),
    "gpu-float32-tflops": (67.0, "peak of an H100 in float32, in which encoders run (data sheet)"),
    "gpu-bfloat16-tflops": (989.0, "peak of an H100 in bfloat16, for decoding in evaluation (data sheet)"),
    "mfu": (0.5, "share of the peak that encoders reach; not measured"),
    "storage-gbyte-s": (1.0, "that one machine reads and writes, of a shared file system or object storage"),
    "link-gbyte-s": (12.5, "between machines, for gradients (100 Gbit/s)"),
    "samples-per-gpu": (64, "of an optimizer step"),
    "jitter": (0.05, "standard deviation of the logarithm of a rank's step"),
    "slow": (0.125, "share of machines that are slow, rounded down"),
    "slowdown": (1.5, "times as long that a slow machine takes"),
    "mtbf-h": (24.0, "hours between failures of one machine"),
    "restart-s": (600.0, "seconds until another machine is there"),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """What a pipeline stage takes: seconds, with and without faults, and what each resource alone would take."""

    seconds: float
    faulty_s: float
    bounds_s: dict[str, float]
    disk: float


@dataclass(frozen=True)
class Estimate:
    """So many models on so many GPUs.

    Attributes:
        figures: measured, of the benchmark's own names.
        assumed: by the names of ``ASSUMED``.
    """

    p: Params
    models: int
    gpus: int
    measured: measuring.Models
    figures: dict[str, Any]
    assumed: argparse.Namespace

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Machines, and GPUs of each."""
        each = min(self.gpus, self.assumed.gpus_per_machine)
        return -(-self.gpus // each), each

    @cached_property
    def generators(self) -> list[np.random.Generator]:
        """Of each run with faults, from its first pipeline stage to its last."""
        return [generator("faults", seed, self.models, self.gpus) for seed in range(self.assumed.seeds)]

    @cached_property
    def rates(self) -> Rates:
        """As ``cadmllm plan`` has them, for bytes and evaluation, which one machine does."""
        m, cores = self.measured, self.shape[1] * self.assumed.cores_per_gpu
        means = {name: float(seconds.mean()) for name, seconds in m.seconds.items()}
        return Rates(
            corpus_s=means["corpus"] / cores,
            geometry_s=means["geometry"] / cores,
            corpus_bytes=tuple(member_bytes(size) for size in m.corpus_bytes),  # type: ignore[arg-type]
            png_bytes=member_bytes(m.png_bytes),
            program_tokens=m.program_tokens,
            caption_tokens=m.caption_tokens,
            image_s=self.encoding_s("image"),
            points_s=self.encoding_s("point_cloud"),
            assess_s=means["assess"] / cores,
            flops=self.assumed.gpu_bfloat16_tflops * 1e12,
            num_models=len(m.seconds["geometry"]),
            num_real=0,
        )

    @cached_property
    def disk(self) -> dict[str, int]:
        """Bytes of each pipeline stage's output."""
        return {needs.name: needs.disk for needs in plan(self.p, self.models, self.rates, 1)}

    def encoding_s(self, modality: str) -> float:
        """Of a GPU, for a model."""
        peak = self.assumed.gpu_float32_tflops * 1e12 * self.assumed.mfu
        return float(self.figures["encoder_flops"][modality] / peak)

    def cluster(self, workers: int, faulty: bool) -> Cluster:
        """Machines with so many workers each."""
        a = self.assumed
        calm = Cluster(self.shape[0], workers, start_s=RECORDED["start_s"][0], restart_s=a.restart_s)
        return replace(calm, slow=a.slow, slowdown=a.slowdown, mtbf_s=3600 * a.mtbf_h) if faulty else calm

    def in_pool(
        self,
        times: Sequence[float],
        workers: int,
        hand_s: float,
        ahead: int | None,
        bounds: dict[str, float],
        disk: float,
    ) -> Stage:
        """Units that workers take one at a time."""
        ideal = simulate_pool(times, self.cluster(workers, False), (), hand_s, ahead).seconds
        faulty = self.cluster(workers, True)
        worse = [simulate_pool(times, faulty, faulty.failures(rng), hand_s, ahead).seconds for rng in self.generators]
        return Stage(ideal, float(np.mean(worse)), bounds, disk)

    def on_cores(self, name: str, ahead: int | None) -> Stage:
        """Corpus or geometry: models that the kernel builds, drawn from the distribution of the measured ones."""
        fitted = measuring.fit(self.measured.seconds[name])
        drawn = generator("models", name).lognormal(*fitted, self.models)
        times = np.minimum(drawn, self.p.kernel.timeout_s).tolist()
        pools = self.measured.hand_s
        hand_s = pools["ray" if self.shape[0] > 1 and "ray" in pools else "local"][name]
        storing_s = self.disk[name] / self.models / self.storage
        workers = self.shape[1] * self.assumed.cores_per_gpu
        bounds = {
            "kernel": sum(times) / (workers * self.shape[0]),
            "dealing process": self.models * hand_s,
            "storage": self.models * storing_s,
        }
        return self.in_pool(times, workers, max(hand_s, storing_s), ahead, bounds, self.disk[name])

    @property
    def storage(self) -> float:
        """Bytes a second of one machine."""
        return float(self.assumed.storage_gbyte_s * 1e9)

    def features(self, modality: str) -> Stage:
        """Shards that GPUs take: reading goes on beside the encoder, rounding and writing wait for it."""
        disk = self.disk[f"features@{modality}"]
        read = self.disk["geometry"] + disk
        each = {
            "encoder": self.encoding_s(modality) + self.figures["storing_s"][modality],
            "reading views": self.figures["loading_s"] / READERS if modality == "image" else 0.0,
            "storage": read / self.models * self.shape[1] / self.storage,
        }
        times = [max(each.values()) * count for count in shard_counts(self.p, self.models)]
        bounds = {name: seconds * self.models / self.gpus for name, seconds in each.items()}
        return self.in_pool(times, self.shape[1], 0.0, AHEAD, bounds, disk)

    def trained(self, stage: CurriculumStage) -> int:
        """Bytes of what is trained, with gradients and moments."""
        return step_memory(self.p, stage, sample_tokens(self.p, stage, self.rates)).trained

    def step(self, stage: CurriculumStage, samples: float) -> tuple[int, dict[str, float], float]:
        """How many steps, what each resource takes in one of so many samples a GPU, and what the exchange takes."""
        p, machines = self.p, self.shape[0]
        train = self.models * (1 - p.data.split.validation - p.data.split.test)
        tokens = sample_tokens(p, stage, self.rates)
        shown = {modality: count * width * 2 for modality, (count, width, _) in shown_tokens(p).items()}  # float16
        read = sum(
            share * sum(shown[modality] for modality in combination.split("+") if modality != "text")
            for combination, share in stage.modality_sample_probs.items()
        )
        resources = {
            "processor": RECORDED["step_floor_s"][0],
            "GPU": samples * tokens / RECORDED["step_tokens_per_s"][0],
            "storage": samples * read * self.shape[1] / self.storage,
        }
        gradients = 4 * self.trained(stage) / TRAINED_BYTES
        exchange_s = 2 * (machines - 1) / machines * gradients / (self.assumed.link_gbyte_s * 1e9)
        return round(train * (stage.max_epochs or 0) / (samples * self.gpus)), resources, exchange_s

    def training(self, name: str, stage: CurriculumStage) -> Stage:
        """Steps that end when the slowest rank has."""
        a, p = self.assumed, self.p
        steps, resources, exchange_s = self.step(stage, a.samples_per_gpu)
        save_s = self.trained(stage) / self.storage

        def seconds(rng: np.random.Generator, faulty: bool) -> float:
            cluster = self.cluster(self.shape[1], faulty)
            longest, every = max(resources.values()), p.training.save_every
            return simulate_steps(steps, longest, cluster, rng, a.jitter, exchange_s, every, save_s).seconds

        bounds = {name: steps * took for name, took in (resources | {"exchange": exchange_s}).items()}
        worse = [seconds(rng, True) for rng in self.generators]
        return Stage(seconds(generator("steps"), False), float(np.mean(worse)), bounds, self.disk[f"train@{name}"])

    def preset_batch_s(self) -> float:
        """Training with as many samples to a step as the preset has, however many GPUs share them."""
        found = (self.step(stage, self.p.training.batch_size / self.gpus) for stage in self.p.curriculum.values())
        return sum(steps * (max(resources.values()) + exchange_s) for steps, resources, exchange_s in found)

    def keeping(self, made: float) -> Stage:
        """DVC hashes what was made, on one core, and copies it into its cache."""
        bounds = {"hashing": made / self.figures["hashing_bytes_per_s"], "storage": 2 * made / self.storage}
        return Stage(sum(bounds.values()), sum(bounds.values()), bounds, made)

    def stages(self) -> dict[str, Stage]:
        """Every pipeline stage, in order."""
        found = {"corpus": self.on_cores("corpus", None), "geometry": self.on_cores("geometry", AHEAD)}
        for modality in ("image", "point_cloud"):
            found[f"features@{modality}"] = self.features(modality)
        for name, stage in self.p.curriculum.items():
            found[f"train@{name}"] = self.training(name, stage)
        judged = [n for n in plan(self.p, self.models, self.rates, 1) if n.name.startswith(("evaluate", "robustness"))]
        seconds = sum(needs.seconds for needs in judged)
        found["evaluation"] = Stage(
            seconds, seconds, {"decoding and judging": seconds}, sum(needs.disk for needs in judged)
        )
        found["dvc"] = self.keeping(sum(stage.disk for stage in found.values()))
        return found

    def row(self) -> dict[str, Any]:
        """For the JSON."""
        stages = self.stages()
        seconds, faulty = (sum(getattr(s, name) for s in stages.values()) for name in ("seconds", "faulty_s"))
        built = stages["corpus"].faulty_s + stages["geometry"].faulty_s
        of_cores = self.assumed.cores_per_gpu * self.assumed.core_hour
        at, longest = max(stages.items(), key=lambda item: item[1].faulty_s)
        return {
            "models": self.models,
            "gpus": self.gpus,
            "hours": _hours(seconds),
            "hours_with_faults": _hours(faulty),
            "bytes": round(self.models * self.measured.raw_bytes + sum(s.disk for s in stages.values())),
            "cost": round(faulty / 3600 * self.gpus * self.assumed.gpu_hour),
            "cost_with_kernel_on_cores_alone": round(
                ((faulty - built) * self.assumed.gpu_hour + built * of_cores) / 3600 * self.gpus
            ),
            "longest": f"{at}: {_bottleneck(longest)}",
            "preset_batch_hours": _hours(self.preset_batch_s()),
            "stages": {
                name: {
                    "hours": _hours(stage.seconds),
                    "hours_with_faults": _hours(stage.faulty_s),
                    "bottleneck": _bottleneck(stage),
                    "bounds_h": {each: _hours(took) for each, took in stage.bounds_s.items()},
                    "bytes": round(stage.disk),
                }
                for name, stage in stages.items()
            },
        }


def _bottleneck(stage: Stage) -> str:
    return max(stage.bounds_s, key=lambda name: stage.bounds_s[name])


def _hours(seconds: float) -> float:
    return float(f"{seconds / 3600:.3g}")


def described(models: measuring.Models) -> dict[str, Any]:
    """The measured figures of models, for the JSON."""
    fits = {name: measuring.fit(seconds) for name, seconds in models.seconds.items()}
    return {
        "model_core_s": {
            name: {
                "models": len(seconds),
                "mean": round(float(seconds.mean()), 4),
                "median": round(float(np.median(seconds)), 4),
                "max": round(float(seconds.max()), 3),
                "fitted_log": [round(value, 3) for value in fits[name]],
            }
            for name, seconds in models.seconds.items()
        },
        "hand_core_s": {k: {n: round(s, 6) for n, s in each.items()} for k, each in models.hand_s.items()},
        "program_tokens": round(models.program_tokens, 1),
        "caption_tokens": round(models.caption_tokens, 1),
        "raw_bytes": round(models.raw_bytes),
        "png_bytes": round(models.png_bytes),
    }


def measure(p: Params, arguments: argparse.Namespace) -> tuple[measuring.Models, dict[str, Any]]:
    """Everything that is measured here."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = arguments.sample if arguments.smoke else None
        source, entries = read_dataset(argparse.Namespace(**{**vars(arguments), "models": few}), folder)
        chosen = [entries[len(entries) * i // arguments.sample] for i in range(min(arguments.sample, len(entries)))]
        models = measuring.measure_models(p, source, chosen, folder, arguments.ray)
        figures = {
            "encoder_flops": measuring.encoder_flops(p),
            "loading_s": round(measuring.loading_s(p, folder / "encoder", models.pngs), 5),
            "storing_s": {m: round(measuring.storing_s(p, folder, m), 6) for m in ("image", "point_cloud")},
            "hashing_bytes_per_s": round(measuring.hashing_bytes_per_s()),
        }
    return models, figures


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, nargs="?", default=OMNICAD, help="Omni-CAD's folder or zip")
    parser.add_argument("--sample", type=int, default=60, help="models of it that are measured")
    parser.add_argument("--models", type=int, nargs="+", default=[OMNICAD_MODELS, 10 * OMNICAD_MODELS])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seeds", type=int, default=3, help="runs with faults, of which the mean is taken")
    parser.add_argument("--asleep", type=float, default=20.0, help="seconds that the check's workers sleep in all")
    parser.add_argument(
        "--ray",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="else dealing to several machines costs what it does on one",
    )
    for name, (default, text) in ASSUMED.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    return parse(parser, sample=3, models=[2000], gpus=[1, 16], seeds=1, asleep=0.5, ray=False)


def estimate(arguments: argparse.Namespace) -> dict[str, Any]:
    """All that is printed."""
    p = Params.parse(yaml_files.plain(presets.compose("single-gpu")), "preset single-gpu")
    models, figures = measure(p, arguments)
    drawn = generator("asleep").lognormal(*measuring.fit(models.seconds["geometry"]), 40)
    asleep = (drawn * arguments.asleep / drawn.sum()).tolist()
    return {
        "rates": {
            "measured": described(models) | figures,
            "recorded": {name: {"value": value, "from": text} for name, (value, text) in RECORDED.items()},
            "assumed": {name: getattr(arguments, name.replace("-", "_")) for name in ASSUMED},
        },
        "check": check.compare(asleep, (1, 2), arguments.ray),
        "tables": [
            Estimate(p, number, gpus, models, figures, arguments).row()
            for number in arguments.models
            for gpus in arguments.gpus
        ],
    }


def main() -> None:
    """Measure, simulate and print."""
    with contextlib.redirect_stdout(sys.stderr):  # Ray says there that a worker was lost
        found = estimate(options())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
