"""The report's gallery: test models beside what was made of them, the best, the middle and the worst."""

import base64
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import UserError

EACH = 4  # models in each part of the gallery
PARTS = ("best", "middle", "worst")


Gallery = dict[str, list[dict[str, Any]]]


def gallery(generated: list[dict[str, Any]], pictures: Path, ranked_by: str, each: int = EACH) -> Gallery:
    """Models in parts ``best``, ``middle`` and ``worst`` by the chamfer distance of one combination's programs.

    Args:
        generated: lines of ``generated.jsonl``.
        pictures: folder of the pictures beside it.
        ranked_by: the combination.
        each: most models in a part.

    Raises:
        UserError: a picture is missing.
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
        part: [_model([line for line in generated if line["key"] == model["key"]], pictures) for model in models]
        for part, models in zip(PARTS, chosen)
    }


def _badness(line: dict[str, Any]) -> tuple[bool, float, str]:
    return not line["valid"], line["metrics"]["chamfer_l1_mean"], line["key"]


def _model(lines: list[dict[str, Any]], pictures: Path) -> dict[str, Any]:
    """One test model: what was shown, and every attempt."""
    first = lines[0]
    shown: list[int] = next((line["views"] for line in lines if line["views"]), [])
    return {
        "id": first["id"],
        "key": first["key"],
        "caption": first["caption"],
        "true": picture(pictures / f"{first['key']}.true.png"),
        "true_mesh": next((line["true_mesh"] for line in lines if line.get("true_mesh")), None),
        "views": [picture(pictures / f"{first['key']}.view{number}.png") for number in range(len(shown))],
        "attempts": [_attempt(line, pictures) for line in lines],
    }


def _attempt(line: dict[str, Any], pictures: Path) -> dict[str, Any]:
    drawn = line["builds"]
    return {
        "combination": line["combination"],
        "valid": line["valid"],
        "reason": line.get("reason", ""),
        "picture": picture(pictures / f"{line['key']}.{line['combination']}.png") if drawn else None,
        "mesh": line.get("mesh"),
        "chamfer": line["metrics"]["chamfer_l1_mean"],
        "iou": line["metrics"]["volumetric_iou"],
    }


def meshes_json(parts: Iterable[list[dict[str, Any]]]) -> str:
    """The meshes of galleries as JSON for the viewer: by model, then ``true`` and each combination.

    Only base64 and names of combinations are in it, nothing that could end a script element.
    """
    found = {
        model["key"]: {
            "true": model["true_mesh"],
            **{attempt["combination"]: attempt["mesh"] for attempt in model["attempts"] if attempt["mesh"]},
        }
        for models in parts
        for model in models
        if model["true_mesh"]
    }
    return json.dumps(found).replace("<", "\\u003c")


def picture(path: Path) -> str:
    """A PNG as a data URI.

    Raises:
        UserError: it is missing.
    """
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run `cadmllm evaluate {path.parent.name}` again") from error
