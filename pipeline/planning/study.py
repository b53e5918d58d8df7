"""A study: variants of params.yaml, each trained with several seeds, compared in one table and one plot.

A file of presets/studies/ holds `variants`, by name the parameters that each changes, and may hold `common`, what all
of them change. `preset` in a variant stands for what that preset changes.

A figure's spread is the distance between the lowest and the highest of its seeds: differences within it say nothing.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from pipeline.metrics.statistics import valid_share
from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.runtime.errors import UserError
from pipeline.settings.yaml_files import plain, read_yaml

FOLDER = presets.FOLDER / "studies"
Read = Callable[[str, str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One training run of a study.

    Attributes:
        variant: its name in the study.
        name: of the DVC experiment.
        document: the parameters to be written.
        params: the same, checked.
    """

    variant: str
    name: str
    document: CommentedMap
    params: Params


def trials(study: str, num_seeds: int, base: CommentedMap) -> list[Trial]:
    """All runs of a study: each variant with each seed, the first seed of all variants first.

    Raises:
        UserError: there is no such study or preset, the file holds something else, or a variant makes no valid
            parameters.
    """
    path = FOLDER / f"{study}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in FOLDER.glob("*.yaml")))
        raise UserError(f"no study {study!r}; there are {known or 'none'} in {FOLDER}")
    content = read_yaml(path)
    if not isinstance(content, dict) or not content.get("variants") or content.keys() - {"common", "variants"}:
        raise UserError(f"{path}: a study holds `variants` and may hold `common`, nothing else")
    found = []
    for seed in range(num_seeds):
        for variant, changes in content["variants"].items():
            document = deepcopy(base)
            preset = presets.overlay(changes["preset"]) if "preset" in changes else {}
            for layer in (content.get("common", {}), preset, changes):
                presets.merge(document, {**layer, "preset": document["preset"]}, "")
            # The project's own seed is left to be it: then what the workspace has trained is not trained again.
            document["training"]["seed"] = None if seed == document["seed"] else seed
            params = Params.parse(plain(document), f"{path}, variant {variant}")
            found.append(Trial(variant, f"{study}-{variant}-{seed}".replace("_", "-"), document, params))
    return found


def collect(finished: Sequence[Trial], read: Read) -> dict[str, dict[str, Any]]:
    """Figures by variant: means over seeds, and their spreads.

    Args:
        finished: trials that have run.
        read: a metrics file of an experiment, by name and path.
    """
    found: dict[str, dict[str, Any]] = {}
    for variant in dict.fromkeys(trial.variant for trial in finished):
        runs = [_figures(trial, read) for trial in finished if trial.variant == variant]
        figures: dict[str, Any] = {"seeds": len(runs)}
        for key in runs[0]:
            values = [value for run in runs if (value := run[key]) is not None]
            if values:
                figures[key] = {"mean": statistics.fmean(values), "spread": max(values) - min(values)}
        found[variant] = figures
    return found


def _figures(trial: Trial, read: Read) -> dict[str, float | None]:
    """What one trial is judged by."""
    names = list(trial.params.curriculum)
    training = [read(trial.name, f"metrics/train/{name}.json") for name in names]
    last = read(trial.name, f"metrics/evaluate/{names[-1]}.json")["combinations"]
    return {
        "target_tokens": float(sum(each["target_tokens"] for each in training)),
        "retention_text": training[-1]["retention_text"],
        "validity": valid_share(last),
        **{f"validation_loss.{name}": figures["validation_loss"] for name, figures in last.items()},
        **{f"chamfer_median.{name}": figures["metrics"]["chamfer_l1_mean"]["median"] for name, figures in last.items()},
    }


def markdown(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, one row for each variant: mean ± half the spread."""
    keys = list(dict.fromkeys(key for row in figures.values() for key in row if key != "seeds"))
    lines = ["| variant | seeds | " + " | ".join(keys) + " |", "|---|---|" + "---|" * len(keys)]
    for variant, row in figures.items():
        cells = [_cell(key, row[key]) if key in row else "–" for key in keys]
        lines.append(f"| {variant} | {row['seeds']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(key: str, value: Mapping[str, float]) -> str:
    digits = 0 if key == "target_tokens" else 3
    return f"{value['mean']:,.{digits}f} ± {value['spread'] / 2:,.{digits}f}"


def write_plot(figures: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Validation loss and chamfer distance of each variant by combination, with the spread of its seeds, as SVG."""
    from pipeline.report.charts import spread_chart
    from pipeline.runtime.atomic import write_text

    panels = {}
    for kind, label in (("validation_loss", "validation loss"), ("chamfer_median", "median chamfer distance")):
        panels[label] = {
            variant: {
                key.removeprefix(f"{kind}."): (value["mean"], value["spread"])
                for key, value in row.items()
                if key.startswith(f"{kind}.")
            }
            for variant, row in figures.items()
        }
    write_text(path, spread_chart(panels))
