"""A service asked by many at once: prints one JSON object.

    python benchmarks/serve.py [--requests 200] [--alone 20] [--edits 50] [--checkpoint FOLDER]

The checkpoint is that of the networks that are shipped, as they are, unless one is given. Captions of made parts are
sent to a `cadmllm serve` of its own:

- ``requests_per_s``: programs written, built and answered, ``--requests`` of them asked for at the same moment, each on
  a connection of its own; ``p50_s`` and ``p99_s``: from the moment to the answer; ``lost``: those without one;
- ``over_one_at_a_time``: that rate as a multiple of what one client gets that asks for the next when it has the last;
- ``edit_ms``: median of a number changed in a part of three steps, from the request to the solid's triangles;
- ``page_s``: from the start of the process to the first page; ``ready_s``: until a program can be written;
- ``left_after_gone``: programs that still wait 2 seconds after 50 clients have gone that asked for 8 each.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from _common import ROOT, parse

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis

FAMILIES = tuple(synthesis.FAMILIES)
GONE, EACH = 50, 8  # clients, and the candidates that each asks for


def captions(number: int) -> list[str]:
    """Captions of made parts."""
    return [synthesis.make_part(7, i, FAMILIES).caption for i in range(number)]


def cadmllm(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command in a folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(Path(sys.executable).with_name("cadmllm")), *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


def make_checkpoint(folder: Path) -> Path:
    """The shipped networks as a checkpoint."""
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    for arguments in (("models",), ("checkpoint", "from-models", "checkpoint")):
        process = cadmllm(folder, *arguments)
        said = process.communicate()[1]
        if process.returncode:
            sys.exit(said)
    return folder / "checkpoint"


def started(server: subprocess.Popen[str]) -> tuple[str, float, float]:
    """The address, and seconds until the page and until the model are there."""
    begun = time.perf_counter()
    assert server.stderr is not None
    found = re.search(r"http://\S+", server.stderr.readline())
    if found is None:
        sys.exit(server.communicate()[1])
    while True:
        try:
            httpx.get(found[0]).raise_for_status()
            break
        except httpx.TransportError:
            time.sleep(0.02)
    page = time.perf_counter() - begun
    while httpx.get(f"{found[0]}/health").json()["status"] == "loading":
        time.sleep(0.05)
    return found[0], page, time.perf_counter() - begun


async def asked(client: httpx.AsyncClient, caption: str) -> float | None:
    """Seconds to an answer; None where there is none."""
    begun = time.perf_counter()
    try:
        answer = await client.post("/v1/generate", json={"caption": caption})
    except httpx.TransportError:
        return None
    return time.perf_counter() - begun if answer.status_code == 200 and answer.json()["parts"] else None


async def measure(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of a service that is ready."""
    many = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=many) as client:
        texts = captions(arguments.requests)
        await asked(client, texts[0])
        begun = time.perf_counter()
        for caption in texts[: arguments.alone]:
            await asked(client, caption)
        alone = arguments.alone / (time.perf_counter() - begun)
        begun = time.perf_counter()
        seconds = await asyncio.gather(*(asked(client, caption) for caption in texts))
        rate = len(texts) / (time.perf_counter() - begun)
        answered = [each for each in seconds if each is not None]
        edits = await edited(client, arguments.edits)
        left = await gone(url, client)
    return {
        "requests_per_s": round(rate, 2),
        "over_one_at_a_time": round(rate / alone, 2),
        "p50_s": round(float(np.percentile(answered, 50)), 3),
        "p99_s": round(float(np.percentile(answered, 99)), 3),
        "lost": len(seconds) - len(answered),
        "edit_ms": round(statistics.median(edits) * 1000, 1),
        "left_after_gone": left,
    }


async def edited(client: httpx.AsyncClient, number: int) -> list[float]:
    """Seconds of each of so many edits of one part."""
    program = documents.to_document(synthesis.make_part(7, 0, ("bearing_block",)).program)
    part = (await client.post("/v1/build", json={"program": program})).json()
    parameter = part["steps"][0]["groups"][0]["parameters"][0]
    found = []
    for i in range(number):
        change = {"parameter": parameter["key"], "value": parameter["value"] * (1 + 0.01 * i)}
        begun = time.perf_counter()
        (await client.post("/v1/build", json={"program": program, "change": change})).raise_for_status()
        found.append(time.perf_counter() - begun)
    return found


async def gone(url: str, client: httpx.AsyncClient) -> int:
    """Programs that wait although their clients have gone."""

    async def left() -> None:
        with_seed = ({"caption": "A plate.", "candidates": EACH, "seed": i} for i in range(GONE))
        async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=None)) as leaving:
            tasks = [asyncio.create_task(leaving.post("/v1/generate", json=body)) for body in with_seed]
            await asyncio.sleep(0.3)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    await left()
    await asyncio.sleep(2)
    waiting: int = (await client.get("/health")).json()["waiting"]
    return waiting


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="at the same moment")
    parser.add_argument("--alone", type=int, default=20, help="one after the other")
    parser.add_argument("--edits", type=int, default=50, help="of one part")
    parser.add_argument("--checkpoint", type=Path, help="with its models/ in the folder above checkpoints/")
    arguments = parse(parser, requests=8, alone=2, edits=3)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or make_checkpoint(Path(folder))
        place = Path(folder) if arguments.checkpoint is None else checkpoint.resolve().parents[1]
        begun = time.perf_counter()
        server = cadmllm(place, "serve", "--port", "0", "--no-logs", "--checkpoint", str(checkpoint.resolve()))
        url, page, ready = started(server)
        said = time.perf_counter() - begun - ready
        figures = asyncio.run(measure(url, arguments))
        server.terminate()
        server.communicate()
    print(json.dumps({**figures, "page_s": round(page + said, 2), "ready_s": round(ready + said, 2)}, indent=2))


if __name__ == "__main__":
    main()
