"""On a Ray cluster: two raylets of this machine make the same bytes, also where one is killed half-way."""

import os
import shutil
import time

import pytest

from pipeline.execution import cluster
from pipeline.execution.pool import Failure
from pipeline.execution.settings import Execution
from pipeline.execution.workers import Workers
from pipeline.runtime.errors import UserError
from tests.func.raylets import Raylets
from tests.func.test_interruption import contents
from tests.unit.sandboxed import doze, work

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]


@pytest.fixture(scope="module")
def raylets():
    raylets = Raylets()
    yield raylets
    raylets.close()


@pytest.fixture
def workers(raylets):
    """Those of a cluster that this process is connected with: it holds the cores until it leaves."""
    import ray

    yield Workers(execution=Execution(backend="ray", address=raylets.address))
    ray.shutdown()
    cluster._crew.cache_clear()
    cluster._connected.cache_clear()


def where(_):
    """Which process works, and what it sees of GPUs."""
    time.sleep(0.3)
    return os.getppid(), os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


class Where:
    """What each worker of a network does."""

    def begin(self):
        return where


def test_each_failure_is_named_and_the_rest_goes_on(workers):
    items = list(range(20))
    bad = {3: "hang", 7: "segfault", 11: "memory", 13: "reject", 17: "exit"}
    for at, item in bad.items():
        items[at] = item
    with workers.pool(work, timeout_s=2.0, memory_mib=256) as pool:
        assert pool.num_workers == 2
        results = list(pool.map(items))
    reasons = {at: result.reason for at, result in enumerate(results) if isinstance(result, Failure)}
    assert reasons == {3: "timeout", 7: "crash", 11: "out_of_memory", 13: "unsupported_curve", 17: "crash"}
    assert [r for r in results if not isinstance(r, Failure)] == [2 * i for i in range(20) if i not in bad]


def test_one_worker_process_for_each_pretended_gpu(workers):
    with workers.networks(where, Where(), "cuda") as pool:
        seen = set(pool.map(range(6)))
    assert len({process for _, process, _ in seen}) == 2
    assert {gpu for _, _, gpu in seen} == {"0", "1"}


@pytest.mark.longer
def test_what_a_lost_machine_was_at_is_done_by_another(raylets, workers):
    with workers.pool(doze, timeout_s=20.0, memory_mib=256) as pool:
        list(pool.map([0.0] * 4))  # both are up
        results = pool.map([0.2] * 30)
        first = [next(results) for _ in range(5)]
        raylets.tell("kill")
        rest = list(results)
        raylets.tell("add")
        list(pool.map([0.2] * 8))  # both are up again
        raylets.tell("kill")  # who has nothing to do is lost, too
        later = list(pool.map([0.0] * 6))
        raylets.tell("add")
    assert (len(first + rest), len(later)) == (30, 6)
    assert not any(isinstance(result, Failure) for result in (*first, *rest, *later))


def begin_again(copy, address, *outs):
    """The project without some outs, which a cluster is to make; what there was."""
    before = {name: contents(copy.folder / name) for name in ("data", "evaluations", "metrics", "plots")}
    copy.change("backend: local", "backend: ray")
    copy.change("address: null", f"address: {address}")
    for out in outs:
        place = copy.folder / out
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return before


def test_a_stage_makes_the_same_bytes_also_where_a_machine_is_lost(raylets, copy):
    before = begin_again(copy, raylets.address, "data/geometry")
    process = copy.start("cadmllm", "geometry")
    while not list((copy.folder / "scratch").glob("geometry/*/shards/train-000000.tar")):
        time.sleep(0.01)
        assert process.poll() is None
    raylets.tell("kill")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    raylets.tell("add")
    assert {name: contents(copy.folder / name) for name in before} == before


@pytest.mark.longer
def test_the_other_stages_make_the_same_bytes(raylets, copy):
    worse = ("metrics/robustness.json", "plots/robustness.csv")
    evaluated = [
        name.format(stage)
        for stage in ("stage1_text", "stage3_all")
        for name in ("evaluations/{}", "metrics/evaluate/{}.json")
    ]
    before = begin_again(copy, raylets.address, "data/corpus", "data/features", *evaluated, *worse)
    copy.run("cadmllm", "corpus")
    for modality in ("image", "point_cloud"):
        copy.run("cadmllm", "features", "--modality", modality)
    for stage in ("stage1_text", "stage3_all"):
        assert "batches from the cluster, the last of" in copy.run("cadmllm", "evaluate", stage)
    assert "batches from the cluster, the last of" in copy.run("cadmllm", "robustness")
    assert {name: contents(copy.folder / name) for name in before} == before


def test_where_no_cluster_answers_this_is_told(copy):
    copy.change("backend: local", "backend: ray")
    copy.change("address: null", "address: localhost:9")
    shutil.rmtree(copy.folder / "data/geometry")
    said = copy.run("cadmllm", "geometry", code=1)
    assert "error: no Ray cluster answers at localhost:9 (execution.address)" in said
    assert "Traceback" not in said


def test_a_folder_that_a_machine_has_not_is_told(workers, tmp_path, monkeypatch):
    crew = cluster._Crew(cluster._connected(workers.execution.address), {"num_cpus": 0}, 1)
    monkeypatch.setattr(cluster.Path, "cwd", lambda: tmp_path / "elsewhere")
    with pytest.raises(UserError, match="elsewhere: every machine of a Ray cluster must see"):
        while True:
            crew.hire(1)
            crew.advance()


def test_a_dataset_that_a_machine_has_not_is_told(workers, tmp_path):
    """Its models would be rejected one by one, as if their files were damaged."""
    elsewhere = tmp_path / "Omni-CAD"
    with (
        workers.pool(work, timeout_s=2.0, memory_mib=256, shared=(elsewhere,)) as pool,
        pytest.raises(UserError, match=f" cannot read {elsewhere}: every machine of a Ray cluster must see"),
    ):
        list(pool.map([1, 2]))
