"""One model's points and views, in a sandboxed worker: the user's own where there are any, else from the solid."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.cad.language.program import CadProgram, Frame
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.raw_files import RawFile, view_name
from pipeline.cad.solids import kernel
from pipeline.cad.solids.clouds import draw_points, normalise_points, read_array
from pipeline.cad.solids.mesh import Mesh
from pipeline.cad.solids.rendering import encode_png, read_image, render_views
from pipeline.cad.solids.sampling import sample_surface
from pipeline.geometry.occupancy import sample_occupancy
from pipeline.geometry.settings import Geometry
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator
from pipeline.shards.writer import encode_array

DEFLECTION = 0.004  # of the longest half-side


@dataclass(frozen=True, slots=True)
class DrawTask:
    """All that a worker needs for one sample of the corpus.

    Attributes:
        own_points: the user's own cloud, where there is one.
        own_views: the user's own views by number; empty where there are none.
    """

    id: str
    document: dict[str, Any]
    frame: dict[str, Any]
    own_points: RawFile | None
    own_views: dict[int, RawFile]
    geometry: Geometry
    seed: int


def draw(task: DrawTask) -> dict[str, bytes]:
    """The members of one geometry sample: ``points.npy``, ``view{i}.png``, and ``queries.npy`` where asked for.

    Raises:
        RejectError: the solid cannot be built, or the user's own file cannot be read.
    """
    rng = generator(task.seed, "points", task.id)
    points, views = _own_points(task, rng), _own_views(task)
    queries = None
    if points is None or views is None or task.geometry.num_queries:
        frame = Frame(tuple(task.frame["centre"]), task.frame["scale"])
        mesh = normalised_mesh(documents.from_document(task.document), frame)
        points = sample_surface(mesh, task.geometry.num_points, rng) if points is None else points
        if views is None:
            views = list(render_views(mesh, task.geometry.num_views, task.geometry.image_size))
        if task.geometry.num_queries:
            queries = sample_occupancy(mesh, task.geometry.num_queries, generator(task.seed, "queries", task.id))
    members = {"points.npy": points} if queries is None else {"points.npy": points, "queries.npy": queries}
    pictures = {f"view{i}.png": encode_png(view) for i, view in enumerate(views)}
    return {**{name: encode_array(array) for name, array in members.items()}, **pictures}


def normalised_mesh(program: CadProgram, frame: Frame | None = None) -> Mesh:
    """The program's surface in the normalised frame: the given one, or that of its own solid."""
    solid = kernel.build(program)
    frame = frame or Frame.of_box(*kernel.bounding_box(solid))
    return kernel.tessellate(solid, DEFLECTION * frame.scale).normalised(frame)


def _own_points(task: DrawTask, rng: np.random.Generator) -> np.ndarray | None:
    file = task.own_points
    if file is None:
        return None
    points = normalise_points(read_array(file.read(), file.name))
    return draw_points(points, task.geometry.num_points, rng)


def _own_views(task: DrawTask) -> list[np.ndarray] | None:
    files, wanted = task.own_views, task.geometry.num_views
    if not files:
        return None
    missing = [view for view in range(wanted) if view not in files]
    if missing:
        detail = f"{view_name(task.id, missing[0])} is missing; {wanted - len(missing)} of {wanted} views are there"
        raise RejectError("bad_image", detail)
    return [read_image(files[view].read(), files[view].name, task.geometry.image_size) for view in range(wanted)]
