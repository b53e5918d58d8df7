"""A store of tars behind a URL, each under the sha256 of its bytes.

So what has a name there is whole and never changes; a tar that is there is not sent again; and a run that was stopped,
or another one with the same shards, finds them. fsspec does the talking. What is here beyond that: waiting for a server
that is away for a while, and saying what is wrong.
"""

import contextlib
import errno
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.runtime.atomic import write_text
from pipeline.runtime.errors import UserError, system_error
from pipeline.shards.manifest import Shard

T = TypeVar("T")

PLACE = "place.json"  # beside the manifest of shards whose tars are not there
WAITS_S = (1, 2, 4, 8, 16)  # between tries, each of which s3fs makes of five within two seconds
BY_PARTS = {"chunksize": 8 << 20, "max_concurrency": 4}  # of an upload: what is in memory of it
REQUESTS = 16  # reads under way at once, which share the wait for an answer
# A server that takes connections and says nothing is given up for this try.
TIMEOUTS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}, "max_pool_connections": 32}
S3_OPTIONS: dict[str, Any] = {"config_kwargs": TIMEOUTS, "use_listings_cache": False, "skip_instance_cache": True}
AGAIN = "put it back there, or run its pipeline stage again"


def write_place(folder: Path, url: str) -> None:
    """Say beside a manifest which store has its tars. The manifest itself is that of a local run, to the byte."""
    write_text(folder / PLACE, json.dumps({"url": url}) + "\n")


def read_place(folder: Path) -> str | None:
    """The URL of the store that has the tars of a folder; None where they lie in the folder.

    Raises:
        UserError: what says it is damaged.
    """
    path = folder / PLACE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["url"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); run its pipeline stage again") from error


def store_at(url: str | None) -> "Store | None":
    """The store that ``storage.shards`` names; None where it names none. Raises as ``Store``."""
    return Store(url) if url is not None else None


def store_of(folder: Path) -> "Store | None":
    """The store that has the tars of a folder; None where they lie in it. Raises as ``read_place`` and ``Store``."""
    return store_at(read_place(folder))


@contextlib.contextmanager
def fetched(folder: Path, store: "Store | None", shard: Shard) -> Iterator[Path]:
    """A tar of a folder as a file: itself, or a copy of what the store has, for a while."""
    if store is None:
        yield folder / shard.name
        return
    with tempfile.TemporaryDirectory() as place:
        store.get(shard, Path(place) / shard.name)
        yield Path(place) / shard.name


class StoreError(UserError):
    """The store cannot be reached, or refuses, or lacks what is asked for: of no single model."""


class Store:
    """Tars behind a URL of fsspec (``s3://bucket/prefix``, ``file:///mnt/shards``).

    What it does waits for a server that is away, half a minute in all. Threads may share it, and forked processes.

    Raises:
        UserError: no such kind of URL is known here; and from all methods a StoreError.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._protocol = self.url.partition("://")[0]
        self._sizes: dict[str, int] | None = None
        self._process = -1
        self._connection()

    def address(self, shard: Shard) -> str:
        """The URL of a tar."""
        return f"{self.url}/{_name(shard)}"

    def holds(self, shard: Shard) -> bool:
        """Whether a tar is there, by name and size. The store is listed once: a thousand tars take one request."""
        return self._listed().get(_name(shard)) == shard.bytes

    def has(self, shard: Shard) -> bool:
        """Whether a tar is there by its name, whatever its size."""
        return _name(shard) in self._listed()

    def check(self, shards: Sequence[Shard]) -> None:
        """Raise ``StoreError`` for the first tar that is missing or has another size than recorded."""
        for shard in shards:
            if not self.has(shard):
                raise StoreError(f"{self.address(shard)} is missing; {AGAIN}")
            self._check_size(shard, self._listed()[_name(shard)])

    def put(self, path: Path, shard: Shard, again: bool = False) -> None:
        """Send a tar. It has its name there when all of it is there.

        Args:
            again: also where the store has it: what it has under its name may be damaged.
        """
        if self.holds(shard) and not again:
            return

        def send(fs: Any, target: str) -> int:
            if self._protocol == "file":  # where a file would grow under its name
                fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                partial = f"{target}.{uuid.uuid4().hex}.partial"
                fs.put_file(str(path), partial)
                fs.mv(partial, target)
            else:
                fs.put_file(str(path), target, **BY_PARTS if self._protocol == "s3" else {})
            return int(fs.info(target)["size"])

        size = self._tried(_name(shard), send)
        self._check_size(shard, size)
        self._listed()[_name(shard)] = size

    def get(self, shard: Shard, path: Path) -> None:
        """Fetch a whole tar to ``path``."""
        self._tried(_name(shard), lambda fs, source: fs.get_file(source, str(path)))

    def read(self, ranges: Sequence[tuple[Shard, int, int]]) -> list[bytes]:
        """The bytes of each (tar, begin, end), ``REQUESTS`` of them at most: all are asked for at once."""
        assert len(ranges) <= REQUESTS, "they are in memory together"
        fs, root = self._connection()
        shards, begins, ends = zip(*ranges, strict=True)
        pieces = fs.cat_ranges([f"{root}/{_name(s)}" for s in shards], list(begins), list(ends), on_error="return")
        return [
            piece if isinstance(piece, bytes) and len(piece) == end - begin else self._read_alone(shard, begin, end)
            for piece, (shard, begin, end) in zip(pieces, ranges, strict=True)
        ]

    def _read_alone(self, shard: Shard, begin: int, end: int) -> bytes:
        piece: bytes = self._tried(_name(shard), lambda fs, path: fs.cat_file(path, start=begin, end=end))
        if len(piece) != end - begin:
            raise StoreError(f"{self.address(shard)} is cut off; {AGAIN}")
        return piece

    def _listed(self) -> dict[str, int]:
        """Bytes of what is there, by name."""
        if self._sizes is None:
            self._sizes = self._tried("", _sizes)
        return self._sizes

    def _check_size(self, shard: Shard, size: int) -> None:
        if size != shard.bytes:
            raise StoreError(f"{self.address(shard)} has {size} bytes, {shard.bytes} were written; {AGAIN}")

    def _tried(self, name: str, act: Callable[[Any, str], T]) -> T:
        """What ``act`` gives for fsspec's file system and a path in it; tried again after each of ``WAITS_S``."""
        url, (refused, away) = f"{self.url}/{name}", _failures(self._protocol)
        for wait_s in (*WAITS_S, None):
            fs, root = self._connection()
            try:
                return act(fs, f"{root}/{name}")
            except FileNotFoundError as error:
                raise StoreError(
                    f"{url} is missing ({error}): no such bucket, or the tar was removed; {AGAIN}"
                ) from error
            except refused as error:
                raise StoreError(
                    f"{url} is refused ({error}); give credentials that may list, read and write there: "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE. What is finished is kept"
                ) from error
            except away as error:
                if system_error(error) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                    raise  # a disk of this machine's, and nothing that passes
                if wait_s is None:
                    raise StoreError(
                        f"{url} cannot be reached ({error!r}), tried {len(WAITS_S) + 1} times; see to the network, the "
                        "server and its address (AWS_ENDPOINT_URL), and run this again: what is finished is kept"
                    ) from error
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _connection(self) -> tuple[Any, str]:
        """fsspec's file system, and the path in it that all names are below. One for each process: threads that a fork
        has left behind answer nobody.
        """
        if self._process != os.getpid():
            self._fs, self._root = _connect(self.url, S3_OPTIONS if self._protocol == "s3" else {})
            self._process = os.getpid()
        return self._fs, self._root


def _name(shard: Shard) -> str:
    return f"{shard.sha256}.tar"


def _connect(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    import fsspec

    if "://" not in url:
        raise UserError(
            f"storage.shards is {url!r}; it must be a URL, such as s3://bucket/prefix or file:///mnt/shards"
        )
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise UserError(f"{url} needs a package ({error}): pip install -c requirements.lock -e .[s3]") from error
    except ValueError as error:
        raise UserError(f"{url} is no URL that is known here ({error}); see storage.shards") from error
    return fs, root


def _sizes(fs: Any, root: str) -> dict[str, int]:
    try:
        entries = fs.ls(root.rstrip("/"), detail=True)
    except FileNotFoundError:  # nothing was sent yet
        return {}
    return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries}


Errors = tuple[type[Exception], ...]


def _failures(protocol: str) -> tuple[Errors, Errors]:
    """That access is refused; and what passes when one waits. All else is a mistake of the program's."""
    if protocol != "s3":
        return (PermissionError,), (OSError,)
    import aiohttp
    from botocore import exceptions, parsers

    refused = (
        PermissionError,
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.ProfileNotFound,
    )
    transport = (exceptions.HTTPClientError, exceptions.ConnectionError, parsers.ResponseParserError)
    return refused, (OSError, aiohttp.ClientError, *transport)
