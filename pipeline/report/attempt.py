"""One attempt at a test model, told: what was scanned, the program in words, and the error in colour."""

from typing import Any

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import Frame
from pipeline.cad.parts.describe import describe, millimetres
from pipeline.metrics.compact import unpacked
from pipeline.report.pictures import TICKS, data_uri, error_picture, scan_picture


def told(attempt: dict[str, Any], own: dict[str, Any], bits: int) -> dict[str, Any]:
    """What the page tells of one attempt.

    Args:
        attempt: its line of ``generated.jsonl``.
        own: the model's line that has its ``cloud`` and ``frame``.
        bits: of the codec.

    Returns:
        ``steps`` of the program, and how many the true one has; ``scan``, a picture of ``num_points`` points, None
        where none were shown; ``error``, a picture, None where there is no solid; ``distances`` by name, each in
        longest half-sides and in millimetres; ``ticks_mm``: the legend's figures.
    """
    frame = Frame(tuple(own["frame"]["centre"]), own["frame"]["scale"])
    cloud = unpacked(own["cloud"]).reshape(-1, 3)
    program = Codec(bits).decode(attempt["tokens"]) if attempt["parses"] else None
    found, error = _error(cloud, attempt)

    def in_mm(distance: float) -> str:
        return millimetres(float(f"{distance * frame.scale:.3g}"))

    return {
        "combination": attempt["combination"],
        "steps": [] if program is None else describe(program.restored(frame)),
        "true_steps": attempt["extrusions"],
        "scan": data_uri(scan_picture(cloud)) if "point_cloud" in attempt["combination"] else None,
        "num_points": len(cloud),
        "error": error,
        "distances": {name: (distance, in_mm(distance)) for name, distance in found.items()},
        "ticks_mm": [in_mm(tick) for tick in TICKS],
    }


def _error(cloud: np.ndarray, attempt: dict[str, Any]) -> tuple[dict[str, float], str | None]:
    """Distances by name, and the picture."""
    chamfer = attempt["metrics"]["chamfer_l1_mean"]
    if "errors" not in attempt:
        return {"chamfer, as of a point in its middle": chamfer}, None
    errors = unpacked(attempt["errors"])
    shares = {"half of the true surface within": 0.5, "95 % of it within": 0.95, "all of it within": 1.0}
    within = {name: float(np.quantile(errors, share)) for name, share in shares.items()}
    return {"chamfer": chamfer, **within}, data_uri(error_picture(cloud, errors))
