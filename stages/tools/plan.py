"""``cadmllm plan``: the disk, time and memory that a run will need, before it is begun."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.runtime.commands import command
from pipeline.settings import params, yaml_files
from pipeline.settings.places import CORPUS
from pipeline.shards.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from pipeline.planning.plan import Needs


@command
def plan(
    preset: Annotated[str | None, typer.Option(help="A preset; default: params.yaml as it is.")] = None,
    models: Annotated[
        int | None, typer.Option(min=1, help="How many models; default: as in data/corpus/, or as the preset makes.")
    ] = None,
    sample: Annotated[int, typer.Option(min=2, help="Models that are built to measure.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what every pipeline stage will need on this machine, for these models and for all of Omni-CAD."""
    import tempfile
    from pathlib import Path

    from pipeline.planning import presets
    from pipeline.planning.measure import measure
    from pipeline.planning.params import Params
    from pipeline.planning.plan import alternatives
    from pipeline.planning.plan import plan as make_plan
    from pipeline.planning.sizes import OMNICAD_MODELS
    from pipeline.runtime.device import choose_device

    p = Params.load() if preset is None else Params.parse(yaml_files.plain(presets.compose(preset)), f"preset {preset}")
    device, workers = choose_device("auto"), params.num_workers()
    counts = None
    if models is None and preset is None and (CORPUS / MANIFEST).is_file():
        counts = [shard.count for shard in Manifest.read(CORPUS, "corpus").shards]
        models = sum(counts)
    models = models or (p.data.synthetic.num_models if p.data.source == "synthetic" else OMNICAD_MODELS)
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(p, Path(folder), sample, workers, device, lambda text: typer.echo(f"[plan] {text}", err=True))
    plans = {number: make_plan(p, number, rates, workers, counts if number == models else None) for number in
             dict.fromkeys((models, OMNICAD_MODELS))}  # fmt: skip
    others = alternatives(p, OMNICAD_MODELS, rates)
    if as_json:
        document = {
            "preset": p.preset,
            "device": str(device),
            "rates": asdict(rates),
            "plans": {str(number): [asdict(needs) for needs in each] for number, each in plans.items()},
            "alternatives": [{"setting": name, "disk": disk, "seconds": seconds} for name, disk, seconds in others],
        }
        typer.echo(json.dumps(document))
        return
    for number, each in plans.items():
        typer.echo(f"\n{p.preset}, {number:,} models, on {device} with {workers} worker{'s' * (workers > 1)}")
        _print_needs(each)
    typer.echo(f"\nimage features of {OMNICAD_MODELS:,} models, otherwise stored")
    for name, disk, seconds in others:
        typer.echo(f"{name:32}{_bytes(disk):>12}{_time(seconds):>12}")


def _print_needs(plan: "Sequence[Needs]") -> None:
    typer.echo(f"{'pipeline stage':24}{'disk':>12}{'time':>12}{'memory':>12}  basis")
    for needs in plan:
        row = f"{needs.name:24}{_bytes(needs.disk):>12}{_time(needs.seconds):>12}{_bytes(needs.memory):>12}"
        saved = f"; {_bytes(needs.absent)} more with the encoders in the step" if needs.absent else ""
        typer.echo(f"{row}  {needs.basis}{saved}")
    disk, seconds = sum(needs.disk for needs in plan), sum(needs.seconds for needs in plan)
    typer.echo(f"{'total':24}{_bytes(disk):>12}{_time(seconds):>12}")


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.3g} h" if seconds < 72 * 3600 else f"{seconds / 86400:.3g} days"
