"""The synthetic corpus, as a zip in Omni-CAD's layout."""

import json
from itertools import groupby
from pathlib import Path

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.corpus.prepare import model_id
from pipeline.corpus.settings import Data
from pipeline.corpus.splits import drawn_split
from pipeline.corpus.zip_writer import zip_writer
from pipeline.runtime import interrupt
from pipeline.runtime.atomic import atomic_open


def make_synthetic_zip(path: Path, data: Data, seed: int) -> None:
    """Write the synthetic corpus as an Omni-CAD zip.

    Raises:
        UserError: a family that does not exist.
        Interrupted: a stop was asked for; it is begun anew, some milliseconds a part.
    """
    settings = data.synthetic
    every_family = (*settings.families, *settings.unseen_families)
    synthesis.check_families(settings.families)
    synthesis.check_families(every_family)
    with atomic_open(path, "wb") as file, zip_writer(file) as add:
        for folder, numbers in groupby(range(settings.num_models), key=lambda number: f"{number // 10000:04d}"):
            captions = []
            for number in numbers:
                interrupt.check()
                base = f"{folder}/{number:08d}"
                is_test = drawn_split(base, data.split, seed) == "test"
                families = every_family if is_test else settings.families
                part = synthesis.make_part(seed, number, families, settings.general)
                entry_id = model_id(base, part.program)
                add(f"json/{entry_id}.json", documents.dumps(part.program).encode())
                captions.append({"id": entry_id, "text caption": part.caption})
            add(f"txt/{folder}.json", json.dumps(captions, indent=1).encode())
