"""Real pools beside simulated ones, with the same times: how far ``cluster_model.py`` can be trusted.

Workers sleep for the times, so that others on this machine matter little; one of them is killed.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _cluster import Cluster, Run, simulate_pool
from _cluster_work import KILLED, Dozing, doze

from pipeline.execution.pool import Pool
from pipeline.execution.sandbox import Sandbox


def on_ray(limit: int, job: Any, chunk: int = 1) -> Pool[Any, Any]:
    """Workers of a Ray of this machine, which are sent the benchmark's own modules: they find none.

    Args:
        chunk: items that a worker is given at a time, at most.
    """
    from ray import cloudpickle

    from pipeline.execution.cluster import ClusterPool

    cloudpickle.register_pickle_by_value(sys.modules[type(job).__module__])  # type: ignore[no-untyped-call]
    return ClusterPool(job, None, limit, chunk=chunk)


def compare(times: list[float], numbers: tuple[int, ...], with_ray: bool) -> dict[str, dict[str, float]]:
    """Real and simulated seconds and their ratio, for the local pool with so many workers, and Ray's with a loss."""
    found = {}
    for number in numbers:
        with Sandbox(doze, number, 600, 1024) as sandbox:
            _come_up(sandbox, [0.2] * number)
            started = time.perf_counter()
            list(sandbox.map(times))
            real = time.perf_counter() - started
        found[f"local, {number} worker{'s' * (number > 1)}"] = _row(real, simulate_pool(times, Cluster(1, number)))
    if with_ray:
        found["ray, 2 workers, one killed"] = _with_a_loss(times)
    return found


def _with_a_loss(times: list[float]) -> dict[str, float]:
    """Ray's pool, whose first worker is killed at its first item; how long another took to come is measured."""
    with tempfile.TemporaryDirectory() as name:
        job, folder = Dozing(Path(name)), Path(name)
        with on_ray(2, job) as pool:
            known = _come_up(pool, [(0.5, False)] * pool.num_workers)
            began, started = time.time(), time.perf_counter()
            results: list[Any] = list(pool.map([(seconds, at == 0) for at, seconds in enumerate(times)]))
            real = time.perf_counter() - started
            workers = pool.num_workers
        killed = float((folder / KILLED).read_text())
    new = [result.began for result in results if result.pid not in known]
    back = min(new) - killed if new else real  # none came in time
    cluster = Cluster(workers, 1, restart_s=back)
    run = simulate_pool(times, cluster, [(killed - began, 0)])
    return _row(real, run) | {"another_worker_after_s": round(back, 2)}


def _come_up(pool: Pool[Any, Any], items: list[Any]) -> set[int]:
    """Until as many workers have answered as the pool has."""
    known: set[int] = set()
    while len(known) < pool.num_workers:
        results: list[Any] = list(pool.map(items))
        known = {result.pid for result in results}
    return known


def _row(real: float, run: Run) -> dict[str, float]:
    return {
        "real_s": round(real, 2),
        "simulated_s": round(run.seconds, 2),
        "simulated_over_real": round(run.seconds / real, 3),
    }
