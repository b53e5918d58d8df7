"""The pipeline stage ``geometry``: points with normals and shaded views."""

from pathlib import Path

from pipeline.cad.omnicad.settings import Source
from pipeline.cad.solids.settings import Kernel
from pipeline.execution.workers import Workers
from pipeline.geometry.settings import Geometry
from pipeline.runtime.commands import long_running
from pipeline.runtime.progress import display
from pipeline.runtime.scratch import work_folder
from pipeline.settings.params import Sections
from pipeline.settings.places import CORPUS, GEOMETRY
from pipeline.settings.section import Seed
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage.settings import Storage
from pipeline.shards.storage.store import store_at


class GeometrySections(Sections):
    """What ``geometry`` reads of params.yaml."""

    seed: Seed
    data: Source
    geometry: Geometry
    kernel: Kernel
    storage: Storage = Storage()


@long_running
def geometry() -> None:
    """Build every model's solid and draw points with normals and shaded views to data/geometry/."""
    p = GeometrySections.load()
    Manifest.read(CORPUS, "corpus")
    from pipeline.cad.omnicad.watched import unwatched
    from pipeline.geometry.build import build_geometry

    hint = unwatched(Path(p.data.path), "geometry", ("pcd", "img")) if p.data.source == "omnicad" else None
    sections = {"geometry": p.geometry, "kernel": p.kernel, "data": {"path": p.data.path}, "seed": p.seed}
    with display("geometry") as show, work_folder("geometry", __name__, sections, {}) as scratch:
        store, workers = store_at(p.storage.shards), Workers.load()
        counts = build_geometry(CORPUS, p.data, p.geometry, p.kernel, p.seed, scratch, GEOMETRY, workers, show, store)
        show.say(f"{counts['samples']} models drawn, {counts['rejected']} rejected")
        for reason, number in counts["reasons"].items():
            show.say(f"  rejected: {number} {reason} (data/geometry/rejects.csv)")
        if hint:
            show.say(hint)
