"""Generated programs and pairs of files, built and measured; run in a sandbox."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.exchange.files import read_program, read_surfaces
from pipeline.cad.exchange.formats import MESHES, PROGRAMS
from pipeline.cad.exchange.step import read_step
from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import Frame
from pipeline.cad.solids import kernel
from pipeline.cad.solids.distances import to_surface
from pipeline.cad.solids.rendering import encode_png, render_views
from pipeline.cad.solids.sampling import sample_surface
from pipeline.geometry.draw import DEFLECTION
from pipeline.metrics.compact import MAX_POINTS
from pipeline.metrics.geometry import Body, compare, compare_shapes, no_answer_metrics
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator


@dataclass(frozen=True, slots=True)
class AssessTask:
    """A generated sequence and the true one, with the true cloud in the normalised frame, (N, 6).

    Attributes:
        picture_size: None where neither a picture nor topology is wanted.
    """

    tokens: tuple[int, ...]
    true_tokens: tuple[int, ...]
    bits: int
    true_points: np.ndarray
    num_points: int
    seed: int
    picture_size: int | None


def assess(task: AssessTask) -> dict[str, Any]:
    """Build what was generated.

    Returns:
        ``metrics`` as ``compare`` gives them, ``watertight``, ``volume``, a ``picture`` as PNG, the surfaces ``body``
        and ``true_body``, and ``errors``: how far the first ``MAX_POINTS`` true points are from what was built.
        Without a picture, ``metrics`` as ``compare_shapes`` gives them, and ``watertight``.

    Raises:
        RejectError: it does not parse or does not build.
    """
    shape = kernel.build(Codec(task.bits).decode(task.tokens))
    body = Body.of(kernel.tessellate(shape, DEFLECTION))
    true = _true_body(task.true_tokens, task.bits)
    if task.picture_size is None:
        metrics = compare_shapes(body, true, task.true_points, task.num_points, task.seed)
        return {"metrics": metrics, "watertight": body.is_watertight}
    return {
        "metrics": compare(body, true, task.true_points, task.num_points, task.seed),
        "watertight": body.is_watertight,
        "volume": kernel.volume(shape),
        "picture": encode_png(render_views(body.mesh, 1, task.picture_size)[0]),
        "body": body.surface,
        "true_body": true.surface,
        "errors": to_surface(task.true_points[:MAX_POINTS], body.mesh),
    }


@functools.lru_cache(maxsize=64)
def _true_body(tokens: tuple[int, ...], bits: int) -> Body:
    return Body.of(kernel.tessellate(kernel.build(Codec(bits).decode(tokens)), DEFLECTION))


@dataclass(frozen=True, slots=True)
class CompareTask:
    """Two CAD files.

    Attributes:
        predicted: None where there is no prediction.
        aligned: the prediction is measured in a frame of its own, for files of different units or places.
    """

    predicted: Path | None
    true: Path
    num_points: int
    seed: int
    aligned: bool


def compare_files(task: CompareTask) -> dict[str, Any]:
    """All figures of a predicted file against the true one, STEP, STL, PLY, GLB, JSON or tokens.

    Returns:
        ``builds``, ``valid`` (watertight), ``metrics``, and ``reason`` and ``detail`` where the prediction is no solid.

    Raises:
        RejectError: the true file cannot be used.
    """
    true, frame = read_body(task.true, None)
    true_points = sample_surface(true.mesh, task.num_points, generator(task.seed, "truth"))
    try:
        if task.predicted is None:
            raise RejectError("missing", "there is no such file")
        predicted, _ = read_body(task.predicted, None if task.aligned else frame)
        found = compare(predicted, true, true_points, task.num_points, task.seed)
    except RejectError as error:
        nothing = no_answer_metrics(true_points)
        return {"builds": False, "valid": False, "metrics": nothing, "reason": error.reason, "detail": error.detail}
    return {"builds": True, "valid": predicted.is_watertight, "metrics": found}


def read_body(path: Path, frame: Frame | None) -> tuple[Body, Frame]:
    """A file's solid or mesh in a frame, its own if None, and that frame.

    Raises:
        RejectError: it cannot be read or built.
    """
    suffix = path.suffix.lower()
    if suffix in MESHES:
        body = Body.of_triangles(*read_surfaces(path))
        own = body.surface.frame
    else:
        shape = kernel.build(read_program(path)) if suffix in PROGRAMS else read_step(path)
        own = Frame.of_box(*kernel.bounding_box(shape))
        body = Body.of(kernel.tessellate(shape, DEFLECTION * own.scale))
    return body.normalised(frame or own), frame or own
