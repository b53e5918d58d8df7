"""What DVC tracks as metrics: few numbers, with names so short that ``dvc exp show`` has them on one screen.

Three decimals; the figures that they come from stay whole in ``metrics/evaluate`` and ``metrics/transfer.json``.
"""

from typing import Any

from pipeline.metrics.statistics import valid_share


def stage_summary(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Six numbers of an evaluation, the same for every curriculum stage.

    Returns:
        ``syntax``: share of well-formed programs without the grammar; ``valid``: share of valid solids with it;
        validation loss and mean volumetric IoU from ``text`` alone, where that is shown, and from ``all`` that is.
    """
    shown = _text_and_all(evaluation)
    return {
        "syntax": _rounded(evaluation["syntax"]["well_formed_rate"]),
        "valid": _rounded(valid_share(evaluation["combinations"])),
        "loss": {name: _rounded(figures["validation_loss"]) for name, figures in shown.items()},
        "iou": {name: _rounded(figures["metrics"]["volumetric_iou"]["mean"]) for name, figures in shown.items()},
    }


def summary(last: dict[str, Any], real: dict[str, Any]) -> dict[str, Any]:
    """The figures that experiments are compared by.

    Args:
        last: the last stage's evaluation.
        real: the same on real models; empty where there are none.

    Returns:
        The last stage's summary; ``cd``: median chamfer distance from all that is shown; IoU from all on real models.
    """
    found = {**stage_summary(last), "cd": _rounded(_text_and_all(last)["all"]["metrics"]["chamfer_l1_mean"]["median"])}
    if real:
        found["real"] = {"iou": stage_summary(real)["iou"]["all"]}
    return found


def _text_and_all(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    combinations = evaluation["combinations"]
    text = {"text": combinations["text"]} if "text" in combinations else {}
    return {**text, "all": combinations[max(combinations, key=lambda name: name.count("+"))]}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
