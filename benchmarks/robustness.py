"""Damaged files and random programs: every one ends with a result or a named reason. Prints one JSON object.

    python benchmarks/robustness.py [DATASET] [--files 10000] [--sequences 10000]

``files``: real models with bytes flipped, cut, keys dropped, numbers made huge or NaN, lists nested deep, through the
reader. ``sequences``: random walks through the grammar, decoded and built in the sandbox. ``unnamed`` counts what
neither gave a result nor a reason that we know; it is to be 0.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import add_dataset, parse, read_dataset

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.grammar import Grammar, State
from pipeline.cad.language.tokens import NUM_COMMANDS
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.cad.solids import kernel
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import plain_generator

LIMITS = {"timeout", "crash", "out_of_memory"}  # what the sandbox says of a worker that it ended
ODD_VALUES: tuple[Any, ...] = (
    1e300, -1e9, 1e7, 0, -1, None, "x", [], {}, True, float("nan"), float("inf"), 1e-300, "\ud800",
)  # fmt: skip


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key or index in it."""
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        items = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, value in items:
            yield holder, key
            waiting.append(value)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A damaged copy."""
    kind = rng.randrange(6)
    if kind == 0:
        flipped = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        return bytes(flipped)
    if kind == 1:
        return data[: rng.randrange(len(data))]
    document = json.loads(data)
    for _ in range(rng.randrange(1, 4)):
        holder, key = rng.choice(list(places(document)))
        if kind == 2:
            holder.pop(key)
        elif kind == 3:
            holder[key] = rng.choice(ODD_VALUES)
        elif kind == 4:
            depth = rng.choice((10, 1000, 100_000))
            return (
                json.dumps(document)
                .replace('"properties"', '"p": ' + "[" * depth + "]" * depth + ', "properties"', 1)
                .encode()
            )
        elif isinstance(holder[key], float):
            holder[key] *= rng.choice((-1, 1e3, 1e-6, 0, 1e12))
    return json.dumps(document).encode("utf-8", "surrogatepass")


def read(rng: random.Random, sources: list[bytes]) -> str:
    """What the reader says of one damaged file."""
    try:
        documents.loads(mutate(rng, rng.choice(sources)))
    except RejectError as error:
        return error.reason
    except Exception as error:
        return f"unnamed: {type(error).__name__}: {error}"
    return "read"


@dataclass(frozen=True, slots=True)
class Walk:
    """A random sequence."""

    number: int
    bits: int
    budget: int


def walk(task: Walk) -> str:
    """Write a random grammatical sequence, decode it, and build it."""
    rng, grammar = plain_generator("walk", task.number), Grammar(task.bits)
    state = State()
    tokens: list[int] = []
    while state.slot != "done":
        allowed = np.flatnonzero(grammar.allowed(state, task.budget - len(tokens))).tolist()
        commands = [token for token in allowed if token < NUM_COMMANDS]
        tokens.append(rng.choice(commands if commands and rng.random() < 0.6 else allowed))
        state = grammar.advance(state, tokens[-1])
    try:
        shape = kernel.build(Codec(task.bits).decode(tokens))
    except RejectError as error:
        return error.reason
    except Exception as error:
        return f"unnamed: {type(error).__name__}: {error}"
    return "built" if kernel.volume(shape) > 0 else "unnamed: no volume"


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_dataset(parser)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--sequences", type=int, default=10_000)
    arguments = parse(parser, models=8, files=100, sequences=12)
    with tempfile.TemporaryDirectory() as folder:
        path, entries = read_dataset(arguments, Path(folder))
        dataset = open_dataset(path)
        sources = [data for entry in entries if len(data := dataset.read(f"json/{entry.id}.json")) < 20_000]
    rng = plain_generator("files")
    started = time.perf_counter()
    files = Counter(read(rng, sources) for _ in range(arguments.files))
    files_s = time.perf_counter() - started
    sequences: Counter[str] = Counter()
    tasks = (Walk(number, 6 + number % 7, 12 + number % 108) for number in range(arguments.sequences))
    with Sandbox(walk, cores(), timeout_s=10, memory_mib=2048) as sandbox:
        for result in sandbox.map(tasks):
            if isinstance(result, Failure):
                limited = result.reason in LIMITS
                sequences[result.reason if limited else f"unnamed: {result.reason}: {result.detail}"] += 1
            else:
                sequences[result] += 1
    counts = {"files": dict(files.most_common()), "sequences": dict(sequences.most_common())}
    unnamed = sum(
        number for count in (files, sequences) for name, number in count.items() if name.startswith("unnamed")
    )
    seconds = {"files": round(files_s, 1), "sequences": round(time.perf_counter() - started - files_s, 1)}
    print(json.dumps({"unnamed": unnamed, **counts, "seconds": seconds}))


if __name__ == "__main__":
    main()
