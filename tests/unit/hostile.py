"""What a stranger may send: valid files, changed in the ways that break readers, and JSON that follows no schema.

Used by ``test_fuzz*.py``; ``bounded`` holds a reader to seconds and memory.
"""

import json
import re
import resource
import signal
import struct
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

MEMORY = 1 << 30  # bytes that one input may take
SECONDS = 10.0  # of one input, on a busy machine
LENGTHS = (0, 1, 127, 255, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
NUMBERS = (b"0", b"-1", b"1e999", b"-1e308", b"nan", b"1e-320", b"4294967295", b"99999999999999999999", b"9" * 400)
DEEP = "\ue000"  # where brackets go
FORMATS = tuple(f"{order}{size}" for order in "<>" for size in "BHIQ")


class Slow(Exception):
    """A reader took longer than it may."""


@contextmanager
def bounded(seconds=SECONDS, memory=MEMORY):
    """No more than so long and so many bytes more than now: ``Slow`` or ``MemoryError`` is raised."""

    def late(*_):
        raise Slow(f"more than {seconds} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, before[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


# -- bytes ------------------------------------------------------------------------------------------------------------


def _flipped(draw, data, _):
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]


def _length(draw, data, _):
    """A field of a header says something else."""
    field = struct.Struct(draw(st.sampled_from(FORMATS)))
    number = draw(st.sampled_from(LENGTHS)) & ((1 << 8 * field.size) - 1)
    at = draw(st.integers(0, max(0, len(data) - field.size)))
    return data[:at] + field.pack(number) + data[at + field.size :]


def _number(draw, data, _):
    """A number in text is another one."""
    found = [match.span() for match in re.finditer(rb"[-+.0-9]+(?:[eE][-+]?\d+)?", data[:100_000])]
    if not found:
        return data
    start, end = draw(st.sampled_from(found))
    return data[:start] + draw(st.sampled_from(NUMBERS)) + data[end:]


def _truncated(draw, data, _):
    return data[: draw(st.integers(0, len(data) - 1))]


def _cut(draw, data, _):
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    return data[:start] + data[end:]


def _repeated(draw, data, _):
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    return data[:end] + data[start:end] * draw(st.integers(1, 8)) + data[end:]


def _spliced(draw, data, others):
    other = draw(st.sampled_from(others))
    return data[: draw(st.integers(0, len(data)))] + other[draw(st.integers(0, len(other))) :]


def _inserted(draw, data, _):
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(max_size=40)) + data[at:]


CHANGES = (_flipped, _length, _number, _truncated, _cut, _repeated, _spliced, _inserted)


@st.composite
def mutated(draw, originals):
    """One of some valid files with one to four changes."""
    data = draw(st.sampled_from(originals))
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=4)):
        data = change(draw, data or b"\0", originals)
    return data


# -- JSON -------------------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**308, 10**400, 1 << 64, 1e308, -0.0, 5e-324]),
    st.floats(),  # NaN and Infinity too, as Python writes them
    st.text(max_size=8),
    st.sampled_from([DEEP, "", "../../etc/passwd", "/etc/passwd", "\ud800", "<script>", "\0"]),
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner))


def _places(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*path, key))


def _at(value, path):
    for key in path:
        value = value[key]
    return value


@st.composite
def documents(draw, originals):
    """A document whose values stand elsewhere, are something else, or are gone: as JSON text."""
    value = json.loads(json.dumps(draw(st.sampled_from(originals))))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        path = draw(st.sampled_from(places))
        other = draw(
            st.one_of(VALUES, st.sampled_from(places).map(lambda place, of=value: _at(of, place)), st.just(...))
        )
        if not path:
            value = {} if other is ... else other
        elif other is ...:
            del _at(value, path[:-1])[path[-1]]
        else:
            _at(value, path[:-1])[path[-1]] = json.loads(json.dumps(other))
    depth = draw(st.sampled_from([2, 300, 900, 970, 990, 1500, 100_000]))
    return json.dumps(value).replace(json.dumps(DEEP), "[" * depth + "]" * depth).encode()


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
