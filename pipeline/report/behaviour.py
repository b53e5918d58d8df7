"""How training went, beside what the curriculum document expects of each stage: loss, convergence, memory.

Memory is to be low, then more, then most, with the encoders loaded in the step; here it grows by the projectors alone.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.curriculum.advice import Lines, new_modalities
from pipeline.curriculum.settings import CurriculumSections
from pipeline.report.pace import Pace, comparable, paces

EXPECTED = (  # of a stage that shows its first new modality after text, its second and further ones
    "falls steadily and fast",
    "may spike, then falls gradually",
    "may spike again, then falls slower but more stable",
)
REWARDED = "falls slowly; it is 1 less the mean reward of the programs that were written"
TRAINED_BYTES = 16  # a value, its gradient and AdamW's two moments, in float32
ENCODER_BYTES = 4  # of a weight: encoders run in float32
MIB = 1 << 20


def behaviour(
    params: CurriculumSections, logs: Mapping[str, Lines], trainable: Mapping[str, int], models: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A row for each stage: its pace, in figures and words, and its memory.

    Args:
        logs: lines of each stage's log, in the order of training.
        trainable: parameters that each stage trains.
        models: the models manifest, with the networks' parameters.
    """
    rows, added = [], 0
    found = paces(params.curriculum, logs)
    for name, pace in found.items():
        stage = params.curriculum[name]
        before = comparable(params.curriculum, name)
        added += bool(new_modalities(params.curriculum, name))
        encoders = sum(models[f"{modality}_encoder"]["parameters"] for modality in stage.encoded)
        rows.append(
            {
                "name": name,
                "pace": pace,
                "expected": REWARDED if stage.objective == "geometry" else EXPECTED[min(added, len(EXPECTED) - 1)],
                "found": in_words(pace, found[before] if before else None),
                "frozen_mib": models["llm"]["parameters"] * params.training.weight_bytes / MIB,
                "trained_mib": trainable[name] * TRAINED_BYTES / MIB,
                "encoders_mib": encoders * ENCODER_BYTES / MIB,
            }
        )
    return rows


def in_words(pace: Pace, before: Pace | None) -> str:
    """What became of the loss, beside the stage that this one goes on from."""
    said = []
    if pace.spike is not None:
        said.append("spikes" if pace.spike > 1 else "does not spike")
    if pace.slope is not None:
        said.append("falls" if pace.slope < 0 else "does not fall")
        if before is not None and before.slope is not None and max(before.slope, pace.slope) < 0:
            said[-1] += " slower" if pace.slope > before.slope else " faster"
    if before is not None and before.variance is not None and pace.variance is not None:
        said.append("more stable" if pace.variance < before.variance else "less stable")
    return ", ".join(said) or "too few steps to say"
