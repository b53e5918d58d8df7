"""The service over HTTP: routes, errors, logs and figures."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline import report
from pipeline.cad.exchange.formats import Unit
from pipeline.runtime.errors import RejectError, UserError
from pipeline.serving import words
from pipeline.serving.examples import Examples, HeldOut, read_examples
from pipeline.serving.service import Service
from pipeline.serving.settings import Limits
from pipeline.serving.waiting import BusyError, GoneError, in_thread

PAGE = Path(__file__).with_name("page")
PANE = Path(report.__file__).with_name("pane.js")  # what the report draws with
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLOSED = 499  # nginx's code for a client that has gone
JSON_MIB = 16  # of a request that is no upload
TYPES = {
    "step": "model/step",
    "stl": "model/stl",
    "obj": "model/obj",
    "glb": "model/gltf-binary",
    "png": "image/png",
    "json": "application/json",
    "py": "text/x-python",
    "tokens": "text/plain",
}
POLICY = (
    b"default-src 'self'",
    b"img-src 'self' data: blob:",
    b"object-src 'none'",
    b"base-uri 'none'",
    b"form-action 'none'",
    b"frame-ancestors 'none'",
)
HEADERS = (
    (
        b"content-security-policy",
        b"; ".join(POLICY),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Figures:
    """What Prometheus reads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "cadmllm", "registry": self.registry}
        self.requests = Counter("requests", "Requests that were answered.", ("route", "status"), **own)
        self.seconds = Histogram("request_seconds", "From a request to the end of its answer.", ("route",), **own)
        self.batches = Histogram(
            "batch_programs", "Programs that were written at once.", buckets=(1, 2, 4, 8, 16, 32), **own
        )
        self.waiting = Gauge("waiting_programs", "Programs that wait to be written.", **own)
        self.kernel_waiting = Gauge("waiting_kernel_work", "Work that waits for the CAD kernel.", **own)
        self.gone = Counter("gone_clients", "Clients that went before their answer.", **own)


class Watched:
    """Around every request: its size is bounded, its answer logged as a line of JSON, counted and timed."""

    def __init__(self, app: ASGIApp, figures: Figures, limits: Limits, hosts: tuple[str, ...], logged: bool) -> None:
        self.app, self.figures, self.limits, self.hosts, self.logged = app, figures, limits, hosts, logged
        self.held = 0  # bytes of bodies of requests that are not answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, body, more = time.monotonic(), CLOSED, 0, True

        async def bounded() -> Message:
            nonlocal body, more
            try:
                message = await asyncio.wait_for(receive(), self.limits.silence_s if more else None)
            except TimeoutError as error:
                raise HTTPException(408, f"nothing came for {self.limits.silence_s:g} s") from error
            size, more = len(message.get("body", b"")), message.get("more_body", False)
            body, self.held = body + size, self.held + size
            if body > self._most(scope):
                raise HTTPException(413, f"more than {self._most(scope) >> 20} MiB")
            if self.held > max(self.limits.kept_mib, self.limits.upload_mib) << 20:
                raise HTTPException(503, "too much is being sent at once", {"Retry-After": "2"})
            return message

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        try:
            if foreign := self._foreign(scope):
                await JSONResponse({"detail": foreign}, 400)(scope, receive, answered)
                return
            await self.app(scope, bounded, answered)
        except Exception:
            status = 500
            raise
        finally:
            self.held -= body
            self._note(scope, status, time.monotonic() - begun)

    def _foreign(self, scope: Scope) -> str:
        """Why a request is refused that another site's page may have made; nothing for one of ours.

        A page cannot choose ``Host`` nor ``Origin``, which names what it is from.
        """
        if "*" in self.hosts:
            return ""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        for header in ("host", "origin"):
            text = headers.get(header, "")
            if header == "origin" and not text:
                continue
            try:
                name = urlsplit(text if "//" in text else f"//{text}").hostname
            except ValueError:
                name = None
            if name not in self.hosts:
                return f"{header} {text[:100]!r} is not this service"
        return ""

    def _most(self, scope: Scope) -> int:
        return (self.limits.upload_mib if scope["path"] == "/v1/uploads" else JSON_MIB) << 20

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.figures.requests.labels(route, status).inc()
        self.figures.seconds.labels(route).observe(seconds)
        if self.logged:
            line = {"method": scope["method"], "path": scope["path"], "status": status, "ms": round(seconds * 1000, 1)}
            print(json.dumps({"time": round(time.time(), 3), **line}), file=sys.stderr, flush=True)


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": words.Problem, "description": "It cannot be done with what was given, and why."},
    413: {"model": words.Problem, "description": "The request is too large."},
    503: {"model": words.Problem, "description": "Too many wait; come again."},
}


def make_app(
    service: Service,
    figures: Figures,
    checkpoint: str,
    hosts: tuple[str, ...] = LOOPBACK,
    logged: bool = False,
    examples: Callable[[], list[HeldOut]] = read_examples,
) -> FastAPI:
    """The service's application.

    Args:
        checkpoint: its name, for ``/health``.
        hosts: names by which it may be asked: on the loopback these alone, so that no page of another site can.
        logged: a line of JSON for each request, on stderr.
        examples: gives what the page offers to begin with.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        # Threads wait for the kernel's processes, so there may be many.
        threads = ThreadPoolExecutor(service.limits.kernel_waiting + 64, "request")
        asyncio.get_running_loop().set_default_executor(threads)
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="CAD-MLLM",
        version=version("cadmllm-curriculum"),
        description=__doc__,
        lifespan=life,
        responses=PROBLEMS,
        redoc_url=None,
        docs_url=None,
    )
    app.add_middleware(Watched, figures=figures, limits=service.limits, hosts=hosts, logged=logged)
    _add_errors(app, figures)
    _add_model_routes(app, service, figures)
    _add_kernel_routes(app, service)
    _add_state_routes(app, service, figures, checkpoint)
    _add_page(app, Examples(service, examples))
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


def _add_page(app: FastAPI, examples: Examples) -> None:
    @app.get("/v1/examples", tags=["page"], response_model=list[words.Example])
    async def listed() -> Any:
        """Something to begin with."""
        return await asyncio.to_thread(examples.listed)

    @app.get("/pane.js", include_in_schema=False)
    async def pane() -> Response:
        return FileResponse(PANE)


def _add_errors(app: FastAPI, figures: Figures) -> None:
    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 400)

    async def invalid(_: Request, error: Exception) -> Response:
        """Pydantic's reasons without what was sent, which need not be JSON."""
        assert isinstance(error, RequestValidationError)
        told = [{"type": each["type"], "loc": each["loc"], "msg": each["msg"]} for each in error.errors()]
        return Response(json.dumps({"detail": told}), 422, media_type="application/json")

    app.add_exception_handler(RequestValidationError, invalid)

    async def busy(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "2"})

    async def gone(_: Request, _error: Exception) -> Response:
        figures.gone.inc()
        return Response(status_code=CLOSED)

    app.add_exception_handler(GoneError, gone)
    for kind in (UserError, RejectError):
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(BusyError, busy)


def _add_model_routes(app: FastAPI, service: Service, figures: Figures) -> None:
    @app.post("/v1/generate", tags=["model"], response_model=words.Parts)
    async def generate(prompt: words.Prompt, request: Request) -> Any:
        """Write a part from a caption, a scan, pictures, or any of these together."""
        return await service.generate(prompt, request.is_disconnected)

    @app.post("/v1/complete", tags=["model"], response_model=words.Parts)
    async def complete(prompt: words.Completion, request: Request) -> Any:
        """Go on from a half-finished part."""
        return await service.generate(prompt, request.is_disconnected)

    @app.post(
        "/v1/search",
        tags=["model"],
        response_class=StreamingResponse,
        responses={200: {"model": words.Event, "content": {"application/x-ndjson": {}}}},
    )
    async def search(prompt: words.SearchPrompt, request: Request) -> Response:
        """Write a part, and change it until it explains the scan or pictures: a JSON object a line, as it is known."""
        events = service.search(prompt, request.is_disconnected)
        first = await anext(events)  # what is wrong is told by the status

        async def lines() -> AsyncIterator[str]:
            try:
                yield first.model_dump_json() + "\n"
                async for event in events:
                    yield event.model_dump_json() + "\n"
            except GoneError:
                figures.gone.inc()
            except Exception as error:
                yield words.Event(event="failed", detail=str(error) or type(error).__name__).model_dump_json() + "\n"
            finally:
                await events.aclose()  # type: ignore[attr-defined]

        return StreamingResponse(lines(), media_type="application/x-ndjson")


def _add_kernel_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/uploads",
        tags=["files"],
        response_model=words.UploadView,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def upload(
        request: Request,
        name: Annotated[str, Query(max_length=200, description="Of the file, with its suffix.")],
        unit: Annotated[Unit, Query(description="Of the numbers in a cloud or a mesh.")] = Unit.M,
    ) -> Any:
        """Send a scan, a mesh, a solid, a picture or a program, which other requests then name by its id."""
        data = await request.body()
        return await in_thread(request.is_disconnected, service.upload, name, data, unit)

    @app.post("/v1/build", tags=["programs"], response_model=words.Part)
    async def build(body: words.BuildRequest, request: Request) -> Any:
        """Build a program, after one change where one is given."""
        return await in_thread(request.is_disconnected, service.build, body)

    @app.post(
        "/v1/convert",
        tags=["programs"],
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}, "description": "The file."}},
    )
    async def convert(body: words.ConvertRequest, request: Request) -> Response:
        """Write a program as a file."""
        name, data = await in_thread(request.is_disconnected, service.convert, body)
        kind = TYPES.get(body.format, "application/octet-stream")
        return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _add_state_routes(app: FastAPI, service: Service, figures: Figures, checkpoint: str) -> None:
    @app.get("/health", tags=["state"], response_model=words.Health)
    async def health() -> Any:
        """Whether the service is well, and what it can do."""
        limits, loaded = service.limits, service.batcher
        failure = loaded.exception() if loaded.done() else None
        return words.Health(
            status="failed" if failure else "ok" if service.is_ready else "loading",
            detail=str(failure) if failure else None,
            version=app.version,
            checkpoint=checkpoint,
            combinations=list(service.config.combinations),
            views=service.views,
            waiting=service.num_waiting,
            kernel_waiting=service.pool.num_waiting,
            limits={"upload_mib": limits.upload_mib, "candidates": limits.candidates, "search_s": limits.search_s},
        )

    @app.get("/metrics", tags=["state"], response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        figures.waiting.set(service.num_waiting)
        figures.kernel_waiting.set(service.pool.num_waiting)
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)
