"""``cadmllm status``: what is done, what is in scratch, what would run and why."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.runtime.commands import command
from pipeline.runtime.errors import UserError
from pipeline.runtime.scratch import RECORDS, SCRATCH

BUSY = "runs now, or waits for what does"


@command
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    watched: Annotated[
        bool, typer.Option("--watch", help="Show what runs now and how far it is, until Ctrl-C.")
    ] = False,
) -> None:
    """Say for every pipeline stage whether it is done, half done in scratch, or would run, and why."""
    if watched:
        from stages.tools.watch import watch

        watch()
        return
    from pipeline.planning.params import Params

    p = Params.load()
    names, changed = _stages()
    told = {name: _reasons(changed[name]) if name in changed else [] for name in names}
    partial = half_done(SCRATCH)
    if as_json:
        listed = [{"stage": name, "done": name not in changed, "reasons": told[name]} for name in names]
        typer.echo(json.dumps({"preset": p.preset, "stages": listed, "scratch": partial}, indent=1))
        return
    typer.echo(f"preset {p.preset}, data {p.data.source}, curriculum {' -> '.join(p.curriculum)}")
    width = max(len(name) for name in names)
    for name, reasons in told.items():
        would = BUSY if reasons == [BUSY] else "would run: " + "; ".join(reasons)
        typer.echo(f"{name:{width}}  {would if name in changed else 'done'}")
    if partial:
        typer.echo("\nin scratch (work to go on from, where nothing it depends on has changed):")
        for line in partial:
            typer.echo(f"  {line}")
    typer.echo(
        f"\n{len(names) - len(changed)} of {len(names)} pipeline stages are done"
        + ("; `dvc repro` runs the rest" if changed else "")
    )


def _stages() -> tuple[list[str], dict[str, list[Any]]]:
    """All pipeline stages, and what DVC says of those that are not done."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        repo = Repo()
        here = Path.cwd().resolve()  # pretraining/ is a pipeline of its own
        stages = [each for each in repo.index.stages if Path(each.path).resolve().parent == here]
        changed: dict[str, list[Any]] = {}
        with repo.lock:  # Repo.status would read dvc.lock again for every pipeline stage
            for each in stages:
                try:
                    changed |= each.status(check_updates=True)
                except LockError:  # held by a command that writes what this one reads or writes
                    changed[each.addressing] = [BUSY]
    except DvcException as error:
        raise UserError(f"dvc: {error}") from error
    names = [each.addressing for each in stages]
    return names, {name: changed[name] for name in names if name in changed}


def _reasons(entries: list[Any]) -> list[str]:
    """DVC's answer for one pipeline stage in words."""
    if entries == ["always changed"]:
        return ["always runs"]
    reasons: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            reasons.append(entry)
            continue
        for kind, paths in entry.items():
            what = {"changed deps": "input", "changed outs": "out"}.get(kind, kind)
            reasons += [f"{what} {path} {_verb(state)}" for path, state in _flat(paths)]
    reasons.sort(key=lambda reason: reason.startswith(("input pipeline/", "input stages/")))  # code last: it is most
    if len(reasons) > 6:
        reasons = [*reasons[:5], f"and {len(reasons) - 5} more"]
    return reasons or ["never ran"]


def _flat(paths: dict[str, Any]) -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for path, state in paths.items():
        # Parameters come as {"params.yaml": {"key": "modified"}}.
        flat += [(key, str(inner)) for key, inner in state.items()] if isinstance(state, dict) else [(path, str(state))]
    return flat


def _verb(state: str) -> str:
    return {
        "modified": "changed",
        "deleted": "is missing",
        "new": "is new",
        "not in cache": "is not in DVC's cache",
    }.get(state, state)


def half_done(folder: Path) -> list[str]:
    """What each unfinished piece of work has got to."""
    lines = []
    for place in sorted(p for p in folder.glob("*/*") if p.is_dir()):
        shards, states = len(list(place.glob("*.done.json"))), sorted(place.glob("state-*"))
        records, batches = list(place.glob(f"{RECORDS}*")), len(list(place.rglob("parts/**/*.json")))
        found = [f"{shards} shard{'s' * (shards > 1)}"] if shards else []
        found += [f"state after step {int(states[-1].name.removeprefix('state-'))}"] if states else []
        found += [f"{sum(path.stat().st_size for path in records) / 1e6:.1f} MB of records"] if records else []
        found += [f"{batches} finished batch{'es' * (batches > 1)}"] if batches else []
        if found:
            lines.append(f"{place}: {', '.join(found)}")
    return lines
