"""Models that are the same program: what training has, or a network has seen, tests nothing.

Programs are compared by their canonical tokens, which do not know where a part lies and how large it is, at 8 bits
whatever ``codec`` says: what a network has seen is known in these alone.
"""

import hashlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.corpus.selection import Selection
from pipeline.runtime.errors import Reject, RejectError

COMPARED = Codec(bits=8)


def program_hash(tokens: np.ndarray, codec: Codec, program: CadProgram, volume: float) -> str:
    """Sixteen hex digits that equal programs share.

    Args:
        tokens: (T,) of the program, by ``codec``.
        program: in the normalised frame.
        volume: of its solid.
    """
    if codec != COMPARED:
        with suppress(RejectError):  # too fine for 8 bits: no network has seen it
            tokens = COMPARED.encode(program, volume)
    return hashlib.sha256(tokens.astype("<u2").tobytes()).hexdigest()[:16]


def known_to_training(selection: Selection, seen: AbstractSet[str]) -> Iterator[Reject]:
    """Models of validation and test that the train split has too, or that a network has seen.

    Args:
        seen: hashes of the programs that networks were trained on before.
    """
    for split in ("validation", "test"):
        for entry_id, program, twin in selection.twins(split):
            if twin is not None:
                detail = f"the same program as {twin} of the train split"
                yield Reject(entry_id, "corpus", "duplicate_of_train", detail)
            elif program in seen:
                yield Reject(entry_id, "corpus", "seen_in_training", "a network was trained on the same program")


def leave_out_known(selection: Selection, seen: AbstractSet[str], rejects: Rejects) -> None:
    """Reject what ``known_to_training`` finds, as it is found."""

    def found() -> Iterator[str]:
        for reject in known_to_training(selection, seen):
            rejects.add(reject)
            yield reject.id

    selection.leave_out(found())
