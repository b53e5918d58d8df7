"""Does a later stage still know what the first one taught? Text-only loss along a checkpoint's lineage."""

from typing import Any

from pipeline.curriculum.settings import CurriculumSections


def lineage_chain(lineage: dict[str, Any]) -> list[dict[str, Any]]:
    """A checkpoint's lineage and that of its ancestors, the first stage last."""
    chain = [lineage]
    while chain[-1].get("parent"):
        chain.append(chain[-1]["parent"])
    return chain


def text_retention(lineage: dict[str, Any]) -> float | None:
    """Text-only validation loss over that of the first stage that had one; None where there is nothing to compare."""
    losses = [each["validation"]["text"] for each in lineage_chain(lineage) if "text" in each["validation"]]
    return losses[0] / losses[-1] if len(losses) > 1 and "text" in lineage["validation"] else None


def retention_advice(retention: float | None, params: CurriculumSections, name: str) -> str | None:
    """A warning with the document's remedy where text-only generation is being forgotten; None where it is not."""
    if retention is None or retention <= params.training.retention_threshold:
        return None
    first = next(iter(params.curriculum))
    return (
        f"text-only loss is {retention:.2f} times that of the first stage (training.retention_threshold is "
        f"{params.training.retention_threshold:g}): the model forgets text-only generation. Raise the share of text in "
        f"curriculum.{name}.modality_sample_probs, or give curriculum.{first} more epochs"
    )
