"""The pipeline stage ``corpus``: captions and program tokens."""

from pathlib import Path

from pipeline.cad.language.settings import Codec
from pipeline.cad.solids.settings import Kernel
from pipeline.corpus.settings import Data
from pipeline.execution.workers import Workers
from pipeline.runtime.commands import long_running
from pipeline.runtime.progress import display
from pipeline.runtime.scratch import work_folder
from pipeline.settings.params import Sections
from pipeline.settings.places import CORPUS, MODELS
from pipeline.settings.section import Seed
from pipeline.shards.storage.settings import Storage


class CorpusSections(Sections):
    """What ``corpus`` reads of params.yaml."""

    seed: Seed
    data: Data
    codec: Codec
    kernel: Kernel
    storage: Storage = Storage()


@long_running
def corpus() -> None:
    """Read Omni-CAD, or make the synthetic corpus, and write its captions and program tokens to data/corpus/."""
    from pipeline.cad.omnicad.watched import unwatched
    from pipeline.corpus.build import build_corpus
    from pipeline.shards.seen import read_seen
    from pipeline.shards.storage.store import store_at

    p = CorpusSections.load()
    sections = {"data": p.data, "codec": p.codec, "kernel": p.kernel, "seed": p.seed}
    inputs = {} if p.data.source == "synthetic" else {"path": str(Path(p.data.path).resolve())}
    hint = unwatched(Path(p.data.path), "corpus", ("json", "txt")) if p.data.source == "omnicad" else None
    seen = read_seen(MODELS) if p.data.duplicates == "drop" else frozenset()
    with display("corpus") as show, work_folder("corpus", __name__, sections, inputs) as scratch:
        workers, store = Workers.load(), store_at(p.storage.shards)
        counts = build_corpus(p.data, p.codec, p.kernel, p.seed, scratch, CORPUS, workers, show, seen=seen, store=store)
        splits = ", ".join(f"{number} {split}" for split, number in counts["splits"].items())
        show.say(
            f"{counts['entries']} entries: {counts['accepted']} accepted ({splits}), {counts['rejected']} rejected"
        )
        for reason, number in counts["reasons"].items():
            show.say(f"  rejected: {number} {reason} (data/corpus/rejects.csv)")
        if hint:
            show.say(hint)
