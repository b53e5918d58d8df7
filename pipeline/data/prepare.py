"""One model from JSON to tokens, in a sandboxed worker: parse, build the solid, find its frame, encode."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cad import kernel, omnicad
from pipeline.cad.codec import Codec
from pipeline.cad.program import CadProgram, Frame
from pipeline.data.dataset import Entry, open_dataset
from pipeline.errors import RejectError


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """What a worker needs for one entry.

    Attributes:
        prefix_of: the id of the model whose first ``num_extrudes`` extrusions the entry is; None for a whole model.
    """

    dataset: Path
    entry: Entry
    bits: int
    tolerance: float
    max_program_tokens: int
    prefix_of: str | None = None
    num_extrudes: int = 0


def prepare(task: PrepareTask) -> dict[str, Any]:
    """The corpus record of one entry: plain JSON values.

    Raises:
        RejectError: it cannot be used.
    """
    entry = task.entry
    program = omnicad.loads(open_dataset(task.dataset).read(f"json/{task.prefix_of or entry.id}.json"))
    if task.prefix_of is not None:
        program = CadProgram(program.extrudes[: task.num_extrudes])
    solid = kernel.build(program)
    frame = Frame.of_box(*kernel.bounding_box(solid))
    volume = kernel.volume(solid) / frame.scale**3
    tokens = Codec(task.bits, task.tolerance).encode(program.normalised(frame), volume)
    if len(tokens) > task.max_program_tokens:
        raise RejectError("too_long", f"{len(tokens)} tokens, data.max_program_tokens is {task.max_program_tokens}")
    return {
        "id": entry.id,
        "key": entry.key,
        "caption": entry.caption,
        "program": omnicad.to_document(program),
        "frame": {"centre": frame.centre, "scale": frame.scale},
        "statistics": {
            "num_extrudes": len(program.extrudes),
            "num_curves": program.num_curves,
            "volume": volume,
        },
        "tokens": tokens.tolist(),
    }


def model_id(base: str, program: CadProgram) -> str:
    """An id as Omni-CAD has them: after the base model's name, the index of the last item of the sequence."""
    return f"{base}_{len(omnicad.to_document(program)['sequence']) - 1:05d}"
