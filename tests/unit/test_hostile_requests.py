"""Clients that hold the service up: slow ones, silent ones, too many at once. A real server, its limits made small."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI, Request

from pipeline.serving.api import Figures, Watched
from pipeline.serving.settings import Limits
from pipeline.serving.waiting import impatient

SILENCE = 0.5
LIMITS = Limits(upload_mib=1, kept_mib=2, connections=12, silence_s=SILENCE)


@pytest.fixture(scope="module")
def port():
    app = FastAPI()

    @app.post("/v1/uploads")
    async def upload(request: Request):
        return len(await request.body())

    @app.get("/slow")
    async def slow():
        await asyncio.sleep(4 * SILENCE)
        return "done"

    app.add_middleware(Watched, figures=Figures(), limits=LIMITS, hosts=("localhost",), logged=False)
    listener = socket.create_server(("localhost", 0), backlog=64)
    http = impatient(SILENCE)
    config = uvicorn.Config(app, http=http, log_level="critical", limit_concurrency=LIMITS.connections)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(20)


@contextlib.contextmanager
def connected(port, data=b""):
    with socket.create_connection(("localhost", port), timeout=10) as connection:
        connection.sendall(data)
        yield connection


def head(method, path, *headers):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def answer(connection):
    """The status, or nothing where the connection ends; what is sent meanwhile may find nobody."""
    with contextlib.suppress(ConnectionError):
        return connection.recv(1 << 16).partition(b"\r\n")[0].partition(b" ")[2][:3].decode()
    return ""


def dripped(connection, data, seconds):
    """Bytes one by one, each well within the silence; when the connection ends, or so many seconds later."""
    begun = time.monotonic()
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
        except ConnectionError:
            break
        if time.monotonic() - begun > seconds:
            break
        time.sleep(SILENCE / 10)
    return time.monotonic() - begun


def test_who_sends_nothing_or_drips_its_headers_is_let_go(port):
    with connected(port) as connection:
        begun = time.monotonic()
        assert answer(connection) == ""
        assert time.monotonic() - begun < 5
    with connected(port) as connection:
        assert dripped(connection, b"GET /slow HTTP/1.1\r\nX: " + b"x" * 1000, 10) < 8
    with connected(port, head("POST", "/v1/uploads", "Content-Length: 0")) as connection:
        assert answer(connection) == "200"
        assert dripped(connection, b"GET /slow HTTP/1.1\r\nX: " + b"x" * 1000, 10) < 8, "its second request"


def test_a_request_that_takes_long_is_not_cut(port):
    with connected(port, head("GET", "/slow")) as connection:
        assert answer(connection) == "200"


def test_a_body_that_does_not_come_is_told(port):
    with connected(port, head("POST", "/v1/uploads", "Content-Length: 100") + b"x") as connection:
        assert answer(connection) == "408"


def test_bodies_are_bounded_one_and_all(port):
    with connected(port, head("POST", "/v1/uploads", f"Content-Length: {2 << 20}") + b"x" * (2 << 20)) as connection:
        assert answer(connection) == "413"
    part = head("POST", "/v1/uploads", f"Content-Length: {1 << 20}") + b"x" * (900 << 10)
    with contextlib.ExitStack() as stack:
        several = [stack.enter_context(connected(port, part)) for _ in range(3)]
        found = [answer(connection) for connection in several]
    assert sorted(found) in (["408", "408", "503"], ["408", "503", "503"])
    with connected(port, head("POST", "/v1/uploads", "Content-Length: 3") + b"abc") as connection:
        assert answer(connection) == "200", "what they held is given back"


def test_headers_and_connections_are_bounded(port):
    with connected(port, head("GET", "/slow", "X: " + "x" * 200_000)) as connection:
        assert answer(connection) in ("400", "431", "")
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.connections):
            stack.enter_context(connected(port))
        time.sleep(0.1)
        with connected(port, head("GET", "/slow")) as connection:
            assert answer(connection) == "503"
    time.sleep(3 * SILENCE)
    with connected(port, head("POST", "/v1/uploads", "Content-Length: 3") + b"abc") as connection:
        assert answer(connection) == "200"
