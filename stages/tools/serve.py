"""``cadmllm serve`` and ``cadmllm demo``: a checkpoint over HTTP, for programs and for people."""

import os
import signal
import socket
import threading
import webbrowser
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.model.checkpoint_folder import check_checkpoint
from pipeline.runtime.commands import command, importing
from pipeline.runtime.errors import UserError
from pipeline.settings import params
from stages.tools import checkpoints

if TYPE_CHECKING:
    from pipeline.serving.api import Figures
    from pipeline.serving.batching import Batcher
    from pipeline.serving.settings import Limits

PORT = 8642

Checkpoint = Annotated[Path | None, typer.Option(help=checkpoints.HELP)]
Host = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all. There is no password.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
Device = Annotated[str | None, typer.Option(help="Default: training.device of params.yaml.")]
UploadMib = Annotated[int, typer.Option(min=1, help="MiB of one file that is sent.")]
SearchS = Annotated[float, typer.Option(min=1.0, help="Seconds that one search may take.")]
Waiting = Annotated[int, typer.Option(min=1, help="Programs that may wait; who comes then is told to come again.")]
Logs = Annotated[bool, typer.Option("--logs/--no-logs", help="A line of JSON for each request, on stderr.")]


@command
def serve(
    checkpoint: Checkpoint = None,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    device: Device = None,
    upload_mib: UploadMib = 64,
    search_s: SearchS = 120.0,
    waiting: Waiting = 1024,
    logs: Logs = True,
) -> None:
    """Serve a checkpoint over HTTP: generate, complete, search, convert. The schema is at /openapi.json."""
    from pipeline.serving.settings import Limits

    limits = Limits(upload_mib=upload_mib, search_s=search_s, waiting=waiting)
    _run(checkpoint, host, port, device, limits, logs, "")


@command
def demo(
    checkpoint: Checkpoint = None,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    device: Device = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Try a checkpoint on a page: words, pictures or a scan into a part, which is then edited step by step."""
    from pipeline.serving.settings import Limits

    _run(checkpoint, host, port, device, Limits(), False, "the page is at " if browser else "open ", browser)


def _run(
    checkpoint: Path | None,
    host: str,
    port: int,
    device: str | None,
    limits: "Limits",
    logs: bool,
    said: str,
    browser: bool = False,
) -> None:
    folder, p = checkpoints.chosen(checkpoint)
    config = check_checkpoint(folder)
    listener = _listen(host, port)
    import uvicorn

    from pipeline.execution.sandbox import start_server
    from pipeline.serving.api import LOOPBACK, Figures, make_app
    from pipeline.serving.examples import examples_of
    from pipeline.serving.service import Service
    from pipeline.serving.waiting import impatient

    start_server("pipeline.serving.tasks", "pipeline.generation.search.search")
    figures = Figures()
    service = Service(config, lambda: _load(folder, device or p.training.device, figures), limits, params.num_workers())
    own = host == "localhost" or ((host.replace(".", "").isdigit() or ":" in host) and ip_address(host).is_loopback)
    hosts = (*LOOPBACK, host) if own else ("*",)
    app = make_app(service, figures, folder.name, hosts, logs, lambda: examples_of(folder))
    name = "localhost" if host in LOOPBACK else f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}"
    typer.echo(f"{said}{url} (Ctrl-C ends it)", err=True)
    if browser:
        threading.Timer(0.5, webbrowser.open, (url,)).start()
    config_of_server = uvicorn.Config(
        app,
        http=impatient(limits.silence_s),
        log_level="warning",
        access_log=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config_of_server)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn ends by them, and then raises them again
        signal.signal(number, lambda *_: None)
    server.run([listener])


def _load(folder: Path, device: str, figures: "Figures") -> "Batcher":
    with importing():
        from pipeline.generation.pretrained import CadMllm
        from pipeline.serving.batching import Batcher

    return Batcher(CadMllm.from_pretrained(folder, device=device), figures.batches.observe)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the address is not this machine's, or the port is taken.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}:{port}: {os.strerror(error.errno or 0)}; try another --port"
        ) from error
