"""A trained checkpoint as a Python object: from words, points and pictures to programs and solids.

model = CadMllm.from_pretrained("checkpoints/stage3_all")
best, *others = model.generate(text="A flange with six bolt holes.", points="scan.npy", num_candidates=8)
best.write("flange.step")
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from pipeline.cad.exchange.files import ConvertTask, WriteOptions, convert
from pipeline.cad.exchange.formats import check_writable
from pipeline.cad.language.codec import TOLERANCE, Codec
from pipeline.cad.language.program import CadProgram, Frame
from pipeline.cad.language.tokens import TOKEN
from pipeline.cad.solids.clouds import draw_points
from pipeline.cad.solids.rendering import Pictures
from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.plain.model import PlainModel, fits
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.execution.workers import Workers
from pipeline.generation.candidates import decodings
from pipeline.generation.inputs import UserInputs, read_inputs
from pipeline.generation.likelihood import score
from pipeline.generation.likeness import search_for
from pipeline.generation.prompt import Encoders, make_prompt
from pipeline.generation.search.search import Budget, silent
from pipeline.generation.search.state import Found
from pipeline.generation.select import Candidate, Shown, build_candidate, select
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.checkpoint_folder import check_checkpoint, models_of
from pipeline.model.inputs import Inputs
from pipeline.runtime.device import DTYPES, choose_device
from pipeline.runtime.errors import RejectError, UserError
from pipeline.runtime.seeds import generator
from pipeline.settings.computing import Dtype, Quantization

CLOUD_POINTS = 2048  # of an input cloud, that candidates are compared with


@dataclass(frozen=True)
class Generated:
    """One generated model.

    Attributes:
        candidate: tokens, log-likelihood, misfit to the input cloud or pictures, and why it makes no solid, where it
            does not.
        program: in metres.
        bits: of the tokens' values.
    """

    candidate: Candidate
    program: CadProgram
    bits: int

    @property
    def is_valid(self) -> bool:
        """Whether it builds a watertight solid."""
        return self.candidate.failure is None

    @functools.cached_property
    def solid(self) -> Any:
        """The B-rep, an OCCT ``TopoDS_Shape`` in metres, built here and now without a time limit.

        Raises:
            RejectError: it does not build.
        """
        from pipeline.cad.solids import kernel

        return kernel.build(self.program)

    def write(
        self, path: str | Path, options: WriteOptions | None = None, timeout_s: float = 60.0, memory_mib: int = 4096
    ) -> dict[str, Any]:
        """Write ``.step``, ``.stl``, ``.ply``, ``.obj``, ``.glb``, ``.png``, ``.json`` (Omni-CAD) or ``.tokens``.

        Returns:
            What is known of the result, as ``convert`` gives it.

        Raises:
            UserError: the suffix is none of these. RejectError: the program makes no solid.
        """
        target = Path(path).resolve()
        check_writable(target)
        task = ConvertTask(self.program, target, options or WriteOptions(self.bits, TOLERANCE))
        with Sandbox(convert, 1, timeout_s, memory_mib) as sandbox:
            result = next(sandbox.map([task]))
        if isinstance(result, Failure):
            raise RejectError(
                result.reason,
                f"the generated program ({len(self.candidate.tokens)} tokens) makes no solid: {result.detail}",
            )
        return result


class CadMllm:
    """A checkpoint with its language model and encoders.

    Args:
        model: on its device.
        models: folder of the resolved models, for the encoders.
        combinations: of modalities that it was trained for.
    """

    def __init__(self, model: CadMllmModel, models: Path, combinations: Sequence[str]) -> None:
        self.model, self.encoders, self.combinations = model, Encoders(model, models), tuple(combinations)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        models: str | Path | None = None,
        device: str = "auto",
        dtype: Dtype | None = None,
        quantization: Quantization | None = None,
        alone: bool = False,
    ) -> "CadMllm":
        """Load a checkpoint.

        Args:
            path: for example ``checkpoints/stage3_all``, what ``cadmllm export`` wrote, or its name on the Hugging
                Face hub.
            models: what ``cadmllm models`` made, the models that the checkpoint was trained with. None: those in its
                folder, where it was exported, else ``models``.
            device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, or one of several, ``cuda:1``.
            dtype: of the frozen weights: ``float32``, ``bfloat16`` or ``float16``; None: as they were in training.
            quantization: ``none`` or ``nf4``; None: as in training. Other weights than those that the adapter was
                trained on give other programs, and mostly worse ones.
            alone: prompts come one by one, and none is decoded with beams: where the checkpoint allows it, loading is
                seconds faster, and what is written the same.

        Raises:
            UserError: something is missing or does not fit.
        """
        checkpoint = _found(path)
        folder = models_of(checkpoint) if models is None else Path(models)
        for name, value, choices in (("dtype", dtype, Dtype), ("quantization", quantization, Quantization)):
            if value not in (None, *get_args(choices)):
                raise UserError(f"{name} {value!r}: it is one of {', '.join(get_args(choices))}")
        config = check_checkpoint(checkpoint)
        config = config.model_copy(
            update={"dtype": dtype or config.dtype, "quantization": quantization or config.quantization}
        )
        chosen = choose_device(device)
        model = load_checkpoint(
            checkpoint,
            folder / "llm",
            DTYPES[config.dtype],
            quantization=config.quantization,
            device=chosen,
            kind=PlainModel if alone and fits(config, folder / "llm", chosen) else CadMllmModel,
        )
        return cls(model, folder, config.combinations)

    def generate(
        self,
        text: str = "",
        points: str | Path | np.ndarray | None = None,
        images: Sequence[str | Path | Image.Image] = (),
        num_candidates: int = 1,
        **settings: Any,
    ) -> list[Generated]:
        """Write CAD models for one prompt, every one of a well-formed program.

        Args:
            text: the caption.
            points: a cloud, (N, 3) or (N, 6) with normals, or a file: what ``read_scan`` takes.
            images: pictures, the first views in their order.
            num_candidates: so many are written and built; equal ones are returned once.
            settings: those of ``generate_from``.

        Returns:
            Candidates, the best first: solids before what does not build, then those that explain the cloud best, or
            without one the pictures, or the likeliest where there is neither.

        Raises:
            UserError, RejectError: an input cannot be used.
        """
        num_points = None if points is None else self.encoders.num_points
        return self.generate_from(read_inputs(text.strip(), points, images, num_points), num_candidates, **settings)

    def generate_from(
        self,
        given: UserInputs,
        num_candidates: int = 1,
        *,
        start: CadProgram | None = None,
        size_mm: float = 100.0,
        temperature: float | None = None,
        top_p: float = 1.0,
        num_beams: int = 1,
        max_new_tokens: int = 512,
        seed: int = 0,
        num_workers: int = 1,
        search_s: float | None = None,
        builds: int | None = None,
        show: Callable[[Found], None] = silent,
        scratch: Path | None = None,
    ) -> list[Generated]:
        """``generate`` for inputs that were read before.

        With ``search_s`` or ``builds`` a search (``generation.likeness``) begins at the candidates; its find is first.

        Args:
            start: extrusions that are given, in metres; the program goes on after them.
            size_mm: longest side of the result, where neither a cloud nor a start gives it.
            temperature: of sampling; 0: greedy, one candidate. None: the first is greedy, the others sampled at 0.7.
            top_p: sampling keeps to the likeliest tokens that have this probability together.
            num_beams: above 1, candidates are the likeliest that a beam search finds, nothing is sampled.
            max_new_tokens: every program ends within it; num_workers: processes that build candidates, and search.
            search_s, builds: seconds of search and programs judged, at most; ``builds`` and seed decide the result.
            show: gets what search has found, each time that it is better; scratch: folder that keeps it, to go on from.

        Raises:
            UserError: a search without a cloud or whole pictures, or the numbers do not go together.
        """
        searched = search_s is not None or builds is not None
        shown = self._pictures(given, start) if given.points is None else given.points
        if searched and shown is None:
            raise UserError("search needs a cloud, or pictures without a start: they show the whole part")
        ways = decodings(num_candidates, max_new_tokens, temperature, top_p, num_beams, seed)
        codec, frame = Codec(self.model.grammar.bits), _frame_of(given, start, size_mm)
        first = [] if start is None else _without_end(codec.encode(start.normalised(frame)).tolist())
        prompt = make_prompt(self.model, self.encoders, given, first)
        programs = [tokens for way in ways for tokens in generate_tokens(self.model, [prompt], way)[0]]
        chosen = self._chosen(prompt, programs, _compared(shown), num_workers)
        if searched and shown is not None:
            budget = Budget.of(search_s, builds)
            found = search_for(shown, codec.bits, programs, seed, Workers(num_workers), budget, show, scratch)
            chosen = self._with_found(found, prompt, chosen)
        return [Generated(each, codec.decode(each.tokens).restored(frame), codec.bits) for each in chosen]

    def _pictures(self, given: UserInputs, start: CadProgram | None) -> Pictures | None:
        """What programs are compared with where there is no cloud; how large a start is beside them, nobody knows."""
        if not given.images or start is not None:
            return None
        return Pictures.of(given.images, self.model.feature_shapes["image"][0])

    def _chosen(self, prompt: Inputs, programs: list[list[int]], shown: Shown, num_workers: int) -> list[Candidate]:
        """Candidates, built and compared with what is shown, the best first."""
        likelihoods, bits = score(self.model, prompt, programs), self.model.grammar.bits
        with Sandbox(build_candidate, num_workers, 60.0, 4096) as sandbox:
            return next(select([programs], [likelihoods], [shown], bits, sandbox))

    def _with_found(self, found: Found, prompt: Inputs, candidates: list[Candidate]) -> list[Candidate]:
        """Candidates, and before them what search has found."""
        if found.tokens is None:
            return candidates
        (likelihood,) = score(self.model, prompt, [found.tokens])
        best = Candidate(found.tokens, likelihood, found.misfit, None)
        return [best, *(other for other in candidates if other.tokens != found.tokens)]


def _found(path: str | Path) -> Path:
    """A checkpoint's folder; what is none, and could be a repository of the hub, is fetched from there.

    Raises:
        UserError: it is nowhere.
    """
    if Path(path).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{path} is no folder here, and could not be had from the Hugging Face hub: {error}") from error


def _compared(shown: Shown) -> Shown:
    """What candidates are compared with: of a cloud some points."""
    if not isinstance(shown, np.ndarray) or len(shown) <= CLOUD_POINTS:
        return shown
    return draw_points(shown, CLOUD_POINTS, generator("compared"))


def _frame_of(given: UserInputs, start: CadProgram | None, size_mm: float) -> Frame:
    """The frame of a cloud, else of the program that is gone on from, else one of that size."""
    if given.frame is not None:
        return given.frame
    if start is None:
        return Frame((0.0, 0.0, 0.0), size_mm / 2000)
    from pipeline.cad.solids import kernel

    return Frame.of_box(*kernel.bounding_box(kernel.build(start)))


def _without_end(tokens: Sequence[int]) -> list[int]:
    """The start of a program that can be completed."""
    return [token for token in tokens if token != TOKEN["END"]]
