"""The report's gallery: test models beside what was made of them, the best, the middle and the worst."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.report.attempt import told
from pipeline.report.pictures import data_uri
from pipeline.runtime.errors import UserError
from pipeline.settings.places import TRANSFER

EACH = 4  # models in each part of the gallery
PARTS = ("best", "middle", "worst")


Gallery = dict[str, list[dict[str, Any]]]


def gallery(
    generated: list[dict[str, Any]], pictures: Path, ranked_by: str, each: int = EACH, bits: int | None = None
) -> Gallery:
    """Models in parts ``best``, ``middle`` and ``worst`` by the IoU of one combination's programs.

    Args:
        generated: lines of ``generated.jsonl``.
        pictures: folder of the pictures beside it.
        ranked_by: the combination.
        each: most models in a part.
        bits: of the codec, to tell that combination's programs in words and their errors in colour; None: without.

    Raises:
        UserError: a picture is missing, or an older version wrote the lines.
    """
    ranked = sorted((line for line in generated if line["combination"] == ranked_by), key=_badness)
    count = len(ranked)
    if count <= 3 * each:
        cuts = (0, (count + 2) // 3, (2 * count + 2) // 3, count)
        chosen = [ranked[a:b] for a, b in itertools.pairwise(cuts)]
    else:
        middle = (count - each) // 2
        chosen = [ranked[:each], ranked[middle : middle + each], ranked[-each:]]
    return {
        part: [
            _model(attempt, [line for line in generated if line["key"] == attempt["key"]], pictures, bits)
            for attempt in attempts
        ]
        for part, attempts in zip(PARTS, chosen)
    }


def _badness(line: dict[str, Any]) -> tuple[bool, float, float, str]:
    metrics = line["metrics"]
    return not line["valid"], -(metrics["volumetric_iou"] or 0.0), metrics["chamfer_l1_mean"], line["key"]


def _model(ranked: dict[str, Any], lines: list[dict[str, Any]], pictures: Path, bits: int | None) -> dict[str, Any]:
    """One test model: what was shown, every attempt, and the one that it is ranked by told."""
    first = lines[0]
    shown: list[int] = next((line["views"] for line in lines if line["views"]), [])
    if "cloud" not in first:
        raise UserError(f"{pictures} is of an older version; {_again(pictures)}")
    return {
        "id": first["id"],
        "key": f"{pictures.name}/{first['key']}",
        "caption": first["caption"],
        "true": picture(pictures / f"{first['key']}.true.png"),
        "true_mesh": first.get("true_mesh"),
        "cloud": first["cloud"],
        "views": [picture(pictures / f"{first['key']}.view{number}.png") for number in range(len(shown))],
        "attempts": [_attempt(line, pictures) for line in lines],
        "told": None if bits is None else told(ranked, first, bits),
    }


def _attempt(line: dict[str, Any], pictures: Path) -> dict[str, Any]:
    drawn = line["builds"]
    return {
        "combination": line["combination"],
        "valid": line["valid"],
        "reason": line.get("reason", ""),
        "picture": picture(pictures / f"{line['key']}.{line['combination']}.png") if drawn else None,
        "mesh": line.get("mesh"),
        "errors": line.get("errors"),
        "chamfer": line["metrics"]["chamfer_l1_mean"],
        "iou": line["metrics"]["volumetric_iou"],
    }


def meshes_json(parts: Iterable[list[dict[str, Any]]]) -> str:
    """What the viewer turns of galleries as JSON: by model ``cloud``, ``true``, and meshes and errors by combination.

    Only base64, ids and names of combinations are in it, nothing that could end a script element.
    """
    found = {
        model["key"]: {
            "cloud": model["cloud"],
            "true": model["true_mesh"],
            "meshes": {attempt["combination"]: attempt["mesh"] for attempt in model["attempts"] if attempt["mesh"]},
            "errors": {attempt["combination"]: attempt["errors"] for attempt in model["attempts"] if attempt["errors"]},
        }
        for models in parts
        for model in models
    }
    return json.dumps(found).replace("<", "\\u003c")


def picture(path: Path) -> str:
    """A PNG as a data URI.

    Raises:
        UserError: it is missing.
    """
    try:
        return data_uri(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {_again(path.parent)}") from error


def _again(evaluation: Path) -> str:
    command = TRANSFER if evaluation.name == TRANSFER else f"evaluate {evaluation.name}"
    return f"run `cadmllm {command}` again"
