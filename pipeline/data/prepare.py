"""One model from JSON to tokens, in a sandboxed worker: parse, build the solid, find its frame, encode."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cad import kernel, omnicad
from pipeline.cad.codec import Codec
from pipeline.cad.program import Frame
from pipeline.data.dataset import Entry, open_dataset
from pipeline.errors import RejectError


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """What a worker needs for one entry."""

    dataset: Path
    entry: Entry
    bits: int
    tolerance: float
    max_program_tokens: int


def prepare(task: PrepareTask) -> dict[str, Any]:
    """The corpus record of one entry: plain JSON values.

    Raises:
        RejectError: it cannot be used.
    """
    program = omnicad.loads(open_dataset(task.dataset).read(f"json/{task.entry.id}.json"))
    solid = kernel.build(program)
    frame = Frame.of_box(*kernel.bounding_box(solid))
    volume = kernel.volume(solid) / frame.scale**3
    tokens = Codec(task.bits, task.tolerance).encode(program.normalised(frame), volume)
    if len(tokens) > task.max_program_tokens:
        raise RejectError("too_long", f"{len(tokens)} tokens, data.max_program_tokens is {task.max_program_tokens}")
    return {
        "id": task.entry.id,
        "key": task.entry.key,
        "caption": task.entry.caption,
        "program": omnicad.to_document(program),
        "frame": {"centre": frame.centre, "scale": frame.scale},
        "statistics": {
            "num_extrudes": len(program.extrudes),
            "num_curves": program.num_curves,
            "volume": volume,
        },
        "tokens": tokens.tolist(),
    }
