"""One model from JSON to tokens, in a sandboxed worker: parse, build the solid, find its frame, encode."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram, Frame
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.omnicad.listing import Entry
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.cad.solids import kernel
from pipeline.corpus.duplicates import program_hash
from pipeline.runtime.errors import Reject, RejectError


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """All that a worker needs for one entry, and all that its record depends on.

    Attributes:
        text: the model as Omni-CAD JSON.
    """

    entry: Entry
    text: bytes
    bits: int
    tolerance: float
    max_program_tokens: int

    @property
    def identity(self) -> str:
        """Sha256 of the task."""
        others = [self.entry.id, self.entry.caption, self.bits, self.tolerance, self.max_program_tokens]
        return hashlib.sha256(json.dumps(others).encode() + self.text).hexdigest()


def read_texts(dataset: Dataset, entries: Iterable[Entry], rejects: Rejects) -> Iterator[tuple[Entry, bytes]]:
    """Each entry with its model's JSON; what cannot be read is added to ``rejects``.

    A model is read once, here: its record is of what was read, whatever becomes of the file meanwhile.

    Raises:
        UserError: the dataset's zip changed meanwhile.
    """
    for entry in entries:
        try:
            yield entry, dataset.read(f"json/{entry.id}.json")
        except RejectError as error:
            dataset.check()
            rejects.add(Reject(entry.id, "corpus", error.reason, error.detail))


def prepare(task: PrepareTask) -> dict[str, Any]:
    """The corpus record of one entry: plain JSON values.

    Raises:
        RejectError: it cannot be used.
    """
    entry, codec = task.entry, Codec(task.bits, task.tolerance)
    program = documents.loads(task.text)
    solid = kernel.build(program)
    frame = Frame.of_box(*kernel.bounding_box(solid))
    normalised, volume = program.normalised(frame), kernel.volume(solid) / frame.scale**3
    tokens = codec.encode(normalised, volume)
    if len(tokens) > task.max_program_tokens:
        raise RejectError("too_long", f"{len(tokens)} tokens, data.max_program_tokens is {task.max_program_tokens}")
    return {
        "id": entry.id,
        "key": entry.key,
        "caption": entry.caption,
        "program": documents.to_document(program),
        "program_hash": program_hash(tokens, codec, normalised, volume),
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
    return f"{base}_{len(documents.to_document(program)['sequence']) - 1:05d}"
