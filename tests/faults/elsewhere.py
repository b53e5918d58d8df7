"""What goes wrong with machines elsewhere: those that hold shards, and those that work."""

import atexit
import hashlib
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import ClassVar

import psutil

from benchmarks._object_storage import BUCKET, environment, object_storage
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage.store import PLACE, write_place
from tests.faults.base import Fault
from tests.func.raylets import Raylets

SHARDS = ("data/corpus", "data/geometry", "data/features/image", "data/features/point_cloud")
WORK = "corpus", "geometry", "features", "evaluate"  # stages whose work a cluster can do


class Bucket:
    """Object storage that has a project's shards: a server of S3, and a proxy that is there while that is away."""

    def __init__(self) -> None:
        self._own = Path(tempfile.mkdtemp())  # not on the project's disk, which may be full
        self._served = object_storage(self._own, recorded=True)
        self.server, self.proxy = self._served.__enter__()
        self.url, self.env = f"s3://{BUCKET}/project", environment(self.proxy)

    def take(self, folder: Path) -> None:
        """Have the tars of a project's folder of shards, in its place."""
        for shard in Manifest.read(folder).shards:
            self.server.request("PUT", f"{BUCKET}/project/{shard.sha256}.tar", data=(folder / shard.name).read_bytes())
            (folder / shard.name).unlink()
        write_place(folder, self.url)

    def missing(self, project: Path) -> list[str]:
        """Tars of the project's manifests that are not here, whole."""
        found = []
        for folder in (project / name for name in SHARDS if (project / name / PLACE).is_file()):
            for shard in Manifest.read(folder).shards:
                data = self.server.request("GET", f"{BUCKET}/project/{shard.sha256}.tar")
                if hashlib.sha256(data).hexdigest() != shard.sha256:
                    found.append(f"{folder.relative_to(project)}/{shard.name} is another one in the store")
        return found

    def close(self) -> None:
        """End the server."""
        self._served.__exit__(None, None, None)
        shutil.rmtree(self._own)


@cache
def cluster() -> Raylets:
    """Two machines; they are there for all schedules, once one has needed them."""
    found = Raylets()
    atexit.register(found.close)
    return found


class StoreAway(Fault):
    """The store of shards is killed, and there again after some seconds: who reads or writes there waits."""

    stages: ClassVar[set[str]] = {"corpus", "geometry", "features", "train", "evaluate", "robustness"}
    by_dvc = False
    needs = "bucket"

    def strike(self, attempt):
        attempt.bucket.server.kill()
        time.sleep(4 * attempt.planned.where)
        attempt.bucket.server.start()
        return True


class StoreGone(StoreAway):
    """The store of shards is away for longer than a command waits."""

    weight = 0.3
    codes = (1,)
    says = r"s3://.* cannot be reached .* tried \d+ times; see to the network, the server and its address"

    def strike(self, attempt):
        attempt.bucket.server.kill()
        self.is_away = True
        return True

    def after(self, attempt):
        if hasattr(self, "is_away"):
            attempt.bucket.server.start()


class StoreSlow(StoreAway):
    """Each answer of the store of shards takes its time."""

    weight = 0.5

    def strike(self, attempt):
        attempt.bucket.proxy.latency_s = attempt.planned.where
        return True

    def after(self, attempt):
        attempt.bucket.proxy.latency_s = 0.0


class RayWorkerDies(Fault):
    """A process of a Ray cluster's machine is killed: what it was at is done by another one."""

    weight = 2.0
    stages: ClassVar[set[str]] = set(WORK)
    by_dvc = False
    needs = "cluster"

    def before(self, attempt):
        attempt.change("backend: local", "backend: ray")
        attempt.change("address: null", f"address: {attempt.cluster.address}")

    def strike(self, attempt):
        worker = attempt.chosen(sorted(_ray_workers(attempt.folder)))
        if worker is None:
            return False
        time.sleep(2 * attempt.planned.where)  # the moment that was drawn is before they are up
        return self.kill(attempt, worker)

    def kill(self, attempt, worker: int) -> bool:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        return True

    def after(self, attempt):
        attempt.change("backend: ray", "backend: local")
        attempt.change(f"address: {attempt.cluster.address}", "address: null")


class RayletDies(RayWorkerDies):
    """A machine of a Ray cluster is lost, with all that works there; another one comes when the command has ended."""

    def kill(self, attempt, worker: int) -> bool:
        attempt.cluster.tell("kill")
        self.is_lost = True
        return True

    def after(self, attempt):
        super().after(attempt)
        if hasattr(self, "is_lost"):
            attempt.cluster.tell("add")


def _ray_workers(folder: Path) -> list[int]:
    """Processes of a cluster that are at work in a project's folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith("ray::") and Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
    return found
