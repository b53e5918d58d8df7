"""Object storage to measure and to test with: moto's server, a process of its own, behind a proxy that adds latency.

The proxy's address stays while the server is killed and started again, with what it held.
"""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.shards.manifest import Manifest
from pipeline.shards.storage.store import Store, write_place

HOST = "127.0.0.1"
BUCKET = "shards"
URL = f"s3://{BUCKET}/benchmark"


class ObjectServer:
    """moto's server, with a bucket ``BUCKET``.

    Args:
        folder: where it logs, and where what it is asked to keep is recorded: it holds it in memory alone.
        recorded: so that ``start`` after ``kill`` gives back what was there; costs twice the time.
    """

    def __init__(self, folder: Path, recorded: bool = False) -> None:
        self.folder, self.recorded = folder, recorded
        self.port = 0
        self.start()
        self.request("PUT", BUCKET)

    def start(self) -> None:
        """Start it, on another port than before."""
        environment = {**os.environ, "MOTO_RECORDER_FILEPATH": str(self.folder / "recording")}
        command = [str(Path(sys.executable).with_name("moto_server")), "-H", HOST, "-p", "0"]
        log = self.folder / "moto.log"
        with open(log, "wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        while not (found := re.search(rf"http://{HOST}:(\d+)", log.read_text())):
            if self.process.poll() is not None:
                raise RuntimeError(log.read_text())
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        port = int(found[1])
        if self.recorded:
            again = (self.folder / "recording").exists()
            self.request("POST", f"moto-api/recorder/{'replay' if again else 'start'}-recording", port)
            if again:
                self.request("POST", "moto-api/recorder/start-recording", port)
        self.port = port

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def request(self, method: str, path: str, port: int | None = None, data: bytes = b"") -> bytes:
        """What it answers."""
        request = urllib.request.Request(f"http://{HOST}:{port or self.port}/{path}", data, method=method)
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request")
        request.add_header("Content-Type", "application/x-tar")  # by its own default, a form
        with urllib.request.urlopen(request) as answer:
            body: bytes = answer.read()
        return body


class Proxy(threading.Thread):
    """Connections are passed on to a server. Answers come later by some seconds, and no slower.

    Attributes:
        latency_s: that is added to each answer.
        passed: bytes of the answers so far.
    """

    def __init__(self, server: ObjectServer, latency_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.server, self.latency_s, self.passed = server, latency_s, 0
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self.start()
        self._listening.wait()

    def run(self) -> None:
        """Pass on until ``close``."""
        listener = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, 0))
        self.url = f"http://{HOST}:{listener.sockets[0].getsockname()[1]}"
        self._listening.set()
        self._loop.run_forever()
        listener.close()
        if tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.close()

    def close(self) -> None:
        """Close all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        with contextlib.suppress(OSError):
            from_server, to_server = await asyncio.open_connection(HOST, self.server.port)
            ends.append(to_server)
            await asyncio.gather(self._pass(reader, to_server, False), self._pass(from_server, writer, True))
        for end in ends:
            end.close()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, is_answer: bool) -> None:
        """Each piece as long after it came as the latency is: pieces behind one another wait together."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)

        async def receive() -> None:
            while piece := await source.read(1 << 16):
                await pieces.put((self._loop.time(), piece))
            await pieces.put((self._loop.time(), b""))

        receiving = asyncio.ensure_future(receive())
        try:
            while piece := (given := await pieces.get())[1]:
                if is_answer:
                    await asyncio.sleep(max(0.0, given[0] + self.latency_s - self._loop.time()))
                    self.passed += len(piece)
                target.write(piece)
                await target.drain()
        finally:
            receiving.cancel()
            target.close()


@contextlib.contextmanager
def object_storage(
    folder: Path, latency_s: float = 0.0, recorded: bool = False
) -> Iterator[tuple[ObjectServer, Proxy]]:
    """Both, for as long as they are used."""
    server = ObjectServer(folder, recorded)
    proxy = Proxy(server, latency_s)
    try:
        yield server, proxy
    finally:
        proxy.close()
        server.kill()


def send(folder: Path) -> None:
    """Have the tars of a folder of shards in the store, and there alone."""
    store = Store(URL)
    for shard in Manifest.read(folder).shards:
        store.put(folder / shard.name, shard)
        (folder / shard.name).unlink()
    write_place(folder, URL)


def environment(proxy: Proxy) -> dict[str, Any]:
    """Variables by which S3's libraries find it."""
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    return {**keys, "AWS_ENDPOINT_URL": proxy.url}
