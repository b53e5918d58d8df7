"""What requests ask for, done: prompts into programs, programs into solids, and search, for many users at once."""

import asyncio
import contextlib
import functools
import math
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.cad.exchange.files import ConvertTask, WriteOptions
from pipeline.cad.exchange.formats import Unit
from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram, Frame
from pipeline.cad.language.tokens import TOKEN
from pipeline.cad.omnicad import documents
from pipeline.cad.parts.captions import count
from pipeline.cad.solids.rendering import Pictures
from pipeline.execution.workers import Workers
from pipeline.generation.inputs import UserInputs
from pipeline.generation.likeness import search_for
from pipeline.generation.search.search import Budget
from pipeline.generation.search.state import Found
from pipeline.metrics.compact import MAX_POINTS, packed
from pipeline.model.checkpoint_folder import CheckpointConfig
from pipeline.runtime.errors import RejectError, UserError
from pipeline.serving import words
from pipeline.serving.editing import changed, without
from pipeline.serving.jobs import Job, Written
from pipeline.serving.pool import KernelPool, never
from pipeline.serving.settings import Limits
from pipeline.serving.tasks import ShapeTask
from pipeline.serving.uploads import NUM_POINTS, Uploads
from pipeline.serving.waiting import BusyError, unless

if TYPE_CHECKING:
    from pipeline.serving.batching import Batcher

MM = 1000.0
MAX_START = 1024  # tokens of a program that is gone on from


@dataclass(frozen=True, slots=True)
class _End:
    """How a search ended."""

    result: Found | Exception


class Service:
    """A checkpoint at work for many.

    Args:
        config: the checkpoint's, which is known before it is loaded.
        load: gives its batcher; what takes seconds, while programs are edited and files are read already.
        limits: what is refused.
        num_workers: processes of the CAD kernel, and of a search.
    """

    def __init__(
        self, config: CheckpointConfig, load: "Callable[[], Batcher]", limits: Limits, num_workers: int
    ) -> None:
        self.config, self.limits, self.num_workers = config, limits, num_workers
        self.codec = Codec(config.bits)
        self.pool = KernelPool(num_workers, limits.kernel_waiting, limits.timeout_s, limits.memory_mib)
        points = config.features.get("point_cloud")
        number = NUM_POINTS if points is None else int(points.details["geometry"]["num_points"])
        self.uploads = Uploads(self.pool, limits.kept_mib << 20, number)
        self.batcher: Future[Batcher] = Future()
        self._turn, self._searching = threading.Lock(), 0
        threading.Thread(target=self._load, args=(load,), name="loader", daemon=True).start()

    def _load(self, load: "Callable[[], Batcher]") -> None:
        try:
            self.batcher.set_result(load())
        except BaseException as error:
            self.batcher.set_exception(error)

    @property
    def views(self) -> int:
        """Pictures that the checkpoint takes at most."""
        return self.config.features["image"].shape[0] if "image" in self.config.features else 0

    @property
    def num_waiting(self) -> int:
        """Programs that wait to be written."""
        return self.batcher.result().num_waiting if self.is_ready else 0

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded."""
        return self.batcher.done() and self.batcher.exception() is None

    def close(self) -> None:
        """Finish what is at work, and end all processes."""
        if self.is_ready:
            self.batcher.result().close()
        self.pool.close()

    # -- programs --------------------------------------------------------------------------------------------------

    def part(
        self,
        program: CadProgram,
        scan: str | None = None,
        written: Written | None = None,
        frame: Frame | None = None,
        is_gone: Callable[[], bool] = never,
        pictures: Pictures | None = None,
    ) -> words.Part:
        """A program in words, and built.

        Args:
            scan: an upload that it is compared with.
            frame: in which it is shown, where there is no scan.
            pictures: that it is compared with, where there is no scan.
            is_gone: whether nobody waits for it any more.

        Raises:
            UserError: there is no such upload. BusyError, GoneError: as ``KernelPool.run``.
        """
        seen = None if scan is None else self.uploads.scan(scan)
        task = ShapeTask(program, frame, pictures=pictures)
        if seen is not None:
            task = ShapeTask(program, seen.frame, seen.points[:MAX_POINTS])
        solid, failure = None, None
        try:
            built = self.pool.run(task, is_gone)
            x, y, z = (length * MM for length in built.pop("size"))
            at = words.FrameView(centre=built["frame"].centre, scale=built["frame"].scale)
            measures = {"volume": built.pop("volume") * MM**3, "area": built.pop("area") * MM**2}
            solid = words.SolidView.model_validate({**built, **measures, "size": (x, y, z), "frame": at})
        except RejectError as error:
            failure = str(error)
        return words.Part(
            program=documents.to_document(program),
            steps=[words.StepView.of(program, i) for i in range(len(program.extrudes))],
            solid=solid,
            failure=failure,
            tokens=len(written.tokens) if written else None,
            log_likelihood=written.log_likelihood if written else None,
        )

    def program(self, document: dict[str, Any]) -> CadProgram:
        """A program that was sent.

        Raises:
            UserError, RejectError: it is none, or too long.
        """
        sequence = document.get("sequence")
        if isinstance(sequence, list) and len(sequence) > 3 * self.limits.extrudes:  # before it is read
            raise UserError(
                f"{len(sequence)} entries in `sequence`; {self.limits.extrudes} extrusions are built at most"
            )
        return self._bounded(documents.from_document(document))

    def _bounded(self, program: CadProgram) -> CadProgram:
        most, curves = self.limits.extrudes, self.limits.curves
        if len(program.extrudes) > most or program.num_curves > curves:
            size = f"{len(program.extrudes)} extrusions of {program.num_curves} curves"
            raise UserError(f"{size}; {most} of {curves} are built at most")
        return program

    def build(self, request: words.BuildRequest, is_gone: Callable[[], bool] = never) -> words.Part:
        """A program after a change, built.

        Raises:
            UserError, RejectError: the program or the change is none.
        """
        program = self.program(request.program)
        change = request.change
        if change is not None:
            if (change.delete is None) == (change.parameter is None) or (change.parameter is None) != (
                change.value is None
            ):
                raise UserError("a change is either `delete`, or `parameter` with its `value`")
            if change.delete is not None:
                program = without(program, change.delete - 1)
            elif change.parameter is not None and change.value is not None:
                program = changed(program, change.parameter, change.value / MM)
        return self.part(program, request.scan, is_gone=is_gone)

    def convert(self, request: words.ConvertRequest, is_gone: Callable[[], bool] = never) -> tuple[str, bytes]:
        """A file's name and content.

        Raises:
            UserError, RejectError: there is nothing to write, or it cannot be written.
        """
        if (request.program is None) == (request.upload is None):
            raise UserError("either a `program` or an `upload` is written")
        if request.program is not None:
            source = self.program(request.program)
        else:
            content = self.uploads.content(str(request.upload))
            if not isinstance(content, CadProgram):
                raise UserError("only programs are converted; this upload is none")
            source = content
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / f"{request.name}.{request.format}"
            options = WriteOptions(self.codec.bits, self.codec.tolerance, request.library, unit=request.unit)
            self.pool.run(ConvertTask(source, target, options), is_gone)
            return target.name, target.read_bytes()

    def upload(
        self, name: str, data: bytes, unit: Unit = Unit.M, is_gone: Callable[[], bool] = never
    ) -> words.UploadView:
        """Read a user's file, and show what is in it.

        Args:
            unit: of the numbers in a cloud or mesh.

        Raises:
            UserError, RejectError: it cannot be used.
        """
        added = self.uploads.add(name, data, unit, is_gone)
        view = words.UploadView(id=added.id, name=added.name, kind=added.kind)
        if isinstance(added.content, CadProgram):
            view.part = self.part(self._bounded(added.content), is_gone=is_gone)
        if added.kind == "scan":
            scan = self.uploads.scan(added.id)
            view.points = packed(scan.points[:MAX_POINTS, :3])
            view.frame = words.FrameView(centre=scan.frame.centre, scale=scan.frame.scale)
            low, high = scan.points[:, :3].min(axis=0), scan.points[:, :3].max(axis=0)
            x, y, z = ((high - low) * scan.frame.scale * MM).tolist()
            view.size = (x, y, z)
        return view

    # -- the model -------------------------------------------------------------------------------------------------

    async def generate(self, prompt: words.Prompt, is_gone: Callable[[], Awaitable[bool]]) -> words.Parts:
        """Candidates, the best first.

        Args:
            is_gone: whether the client has gone: then its work ends.

        Raises:
            UserError, RejectError: an input cannot be used. BusyError: too many wait. GoneError: the client has gone.
        """
        job, frame = await asyncio.to_thread(self._job, prompt)
        written = await self._written(job, is_gone)
        programs = [self.codec.decode(each.tokens).restored(frame) for each in written]

        def built(program: CadProgram, own: Written) -> asyncio.Future[words.Part]:
            call = functools.partial(self.part, program, prompt.scan, own, frame, job.gone.is_set, job.pictures)
            return asyncio.ensure_future(asyncio.to_thread(call))

        futures = asyncio.gather(*(built(p, own) for p, own in zip(programs, written, strict=True)))
        try:
            await unless(is_gone, futures)
        finally:
            if not futures.done():
                job.gone.set()
        parts = futures.result()
        return words.Parts(parts=sorted(parts, key=_rank), notes=self._notes(job.given))

    async def search(
        self, prompt: words.SearchPrompt, is_gone: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[words.Event]:
        """What a search finds, each time that it is better, and at last the best. Who stops listening ends it.

        Raises:
            As ``generate``, before the first event.
        """
        if prompt.scan is None and (not prompt.images or prompt.start is not None):
            raise UserError("what is searched for? Give a scan, or images without a start: they show the whole part")
        if self._searching >= self.limits.searches:
            raise BusyError(f"{self._searching} searches wait already")
        self._searching += 1
        try:
            job, frame = await asyncio.to_thread(self._job, prompt)
            async with contextlib.aclosing(self._events(prompt, job, frame, is_gone)) as events:
                async for event in events:
                    yield event
        finally:
            self._searching -= 1

    async def _events(
        self, prompt: words.SearchPrompt, job: Job, frame: Frame, is_gone: Callable[[], Awaitable[bool]]
    ) -> AsyncGenerator[words.Event, None]:
        events: asyncio.Queue[Found | words.Event | _End] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Found | words.Event | _End) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            starts = [each.tokens for each in await self._written(job, is_gone)]
            threading.Thread(target=self._search, args=(prompt, job, starts, tell), daemon=True).start()
            while not isinstance(event := await events.get(), _End):
                yield await self._seen("found", event, prompt, job, frame) if isinstance(event, Found) else event
            if isinstance(event.result, Exception):
                raise event.result
            best = event.result if event.result.tokens is not None else replace(event.result, tokens=tuple(starts[0]))
            last = await self._seen("done", best, prompt, job, frame)
            yield last.model_copy(update={"notes": self._notes(job.given)})
        finally:
            job.gone.set()

    async def _seen(
        self, event: Literal["found", "done"], found: Found, prompt: words.SearchPrompt, job: Job, frame: Frame
    ) -> words.Event:
        assert found.tokens is not None, "it was found"
        program, written = self.codec.decode(found.tokens).restored(frame), Written(list(found.tokens), None)
        part = await asyncio.to_thread(self.part, program, prompt.scan, written, frame, pictures=job.pictures)
        fit = found.score.value if math.isfinite(found.score.value) else None
        return words.Event(event=event, fit=fit, judged=found.judged, part=part)

    def _search(
        self,
        prompt: words.SearchPrompt,
        job: Job,
        starts: list[list[int]],
        tell: Callable[[Found | words.Event | _End], None],
    ) -> None:
        """Search in this thread, when it is its turn."""
        if not self._turn.acquire(blocking=False):
            tell(words.Event(event="waiting"))
            while not self._turn.acquire(timeout=0.1):
                if job.gone.is_set():
                    return
        try:
            tell(words.Event(event="started"))
            seconds = min(prompt.seconds, self.limits.search_s)
            budget = replace(Budget.of(seconds, prompt.builds), stopped=job.gone.is_set)
            shown = job.pictures if job.given.points is None else job.given.points
            assert shown is not None, "a search has a scan or pictures"
            tell(_End(search_for(shown, self.codec.bits, starts, prompt.seed, Workers(self.num_workers), budget, tell)))
        except Exception as error:
            tell(_End(error))
        finally:
            self._turn.release()

    async def _written(self, job: Job, is_gone: Callable[[], Awaitable[bool]]) -> list[Written]:
        if self.num_waiting + job.num_candidates > self.limits.waiting:
            raise BusyError(f"{self.num_waiting} programs wait already")
        try:
            await unless(is_gone, asyncio.wrap_future(self.batcher))
            self.batcher.result().submit(job)
            await unless(is_gone, asyncio.wrap_future(job.result))
        finally:
            if not job.result.done():
                job.gone.set()
        return job.result.result()

    def _job(self, prompt: words.Prompt) -> tuple[Job, Frame]:
        """A prompt's inputs and the frame of what is written."""
        if not (prompt.caption.strip() or prompt.scan or prompt.images or prompt.start):
            raise UserError("what is to be built? Give a caption, a scan, images or a start")
        if prompt.candidates > self.limits.candidates:
            raise UserError(f"{prompt.candidates} candidates; at most {self.limits.candidates} are written")
        if prompt.steps is not None and prompt.start is None:
            raise UserError("`steps` says how much of `start` is taken; give that too")
        scan = None if prompt.scan is None else self.uploads.scan(prompt.scan)
        pictures = tuple(self.uploads.picture(each) for each in prompt.images)
        given = UserInputs(
            prompt.caption.strip(),
            None if scan is None else scan.points,
            None if scan is None else scan.frame,
            pictures,
        )
        start = None if prompt.start is None else self._start(prompt)
        if scan is not None:
            frame = scan.frame
        elif start is not None:
            frame = self.pool.run(ShapeTask(start))["frame"]
        else:
            frame = Frame((0.0, 0.0, 0.0), prompt.size_mm / 2 / MM)
        first: list[int] = [] if start is None else self.codec.encode(start.normalised(frame)).tolist()
        tokens = [token for token in first if token != TOKEN["END"]]
        if len(tokens) > MAX_START:
            raise UserError(f"`start` has {len(tokens):,} tokens; {MAX_START:,} are gone on from at most")
        once = prompt.temperature == 0
        job = Job(given, tokens, 1 if once else prompt.candidates, prompt.seed, prompt.temperature, prompt.max_tokens)
        if pictures and scan is None and start is None and (known := self.config.features.get("image")):
            job.pictures = Pictures.of(pictures, known.shape[0])
        return job, frame

    def _start(self, prompt: words.Prompt) -> CadProgram:
        program = self.program(prompt.start or {})
        if prompt.steps is not None and prompt.steps > len(program.extrudes):
            raise UserError(f"{prompt.steps} steps; `start` has {count(len(program.extrudes), 'extrusion')}")
        return CadProgram(program.extrudes[: prompt.steps])

    def _notes(self, given: UserInputs) -> list[str]:
        if given.combination in self.config.combinations:
            return []
        known = ", ".join(self.config.combinations)
        return [f"this checkpoint was trained on {known}, never on {given.combination or 'no input'}"]


def _rank(part: words.Part) -> tuple[bool, float, float]:
    misfit = part.solid and (part.solid.misfit or part.solid.difference)
    return part.solid is None, misfit or 0.0, -(part.log_likelihood or 0.0)
