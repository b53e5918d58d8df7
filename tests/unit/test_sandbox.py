"""Kernel work that hangs, crashes or eats memory costs one task."""

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing import forkserver

import psutil
import pytest

from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, _serve
from tests.conftest import ROOT
from tests.unit.sandboxed import build, fails_at_first, finish_after, work

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("num_workers", [1, 3])
def test_each_failure_is_named_and_the_rest_goes_on(num_workers):
    items = list(range(50))
    bad = {7: "hang", 19: "segfault", 23: "memory", 31: "reject", 37: "bug", 41: "exit"}
    for at, item in bad.items():
        items[at] = item
    with Sandbox(work, num_workers, timeout_s=2.0, memory_mib=256) as sandbox:
        results = list(sandbox.map(items))
    reasons = {at: result.reason for at, result in enumerate(results) if isinstance(result, Failure)}
    assert reasons == {
        7: "timeout",
        19: "crash",
        23: "out_of_memory",
        31: "unsupported_curve",
        37: "kernel_failed",
        41: "crash",
    }
    assert [r for r in results if not isinstance(r, Failure)] == [2 * i for i in range(50) if i not in bad]
    assert "SIGSEGV" in results[19].detail


def test_of_fifty_models_only_the_three_bad_ones_are_lost():
    bad = {7: "hang", 19: "segfault", 23: "memory"}
    items = [bad.get(number, number) for number in range(50)]
    with Sandbox(build, 2, timeout_s=5.0, memory_mib=512) as sandbox:
        results = list(sandbox.map(items))
    rejects = {number: result.reason for number, result in enumerate(results) if isinstance(result, Failure)}
    assert rejects == {7: "timeout", 19: "crash", 23: "out_of_memory"}
    assert all(results[number] > 0 for number in range(50) if number not in bad)


def test_a_slow_item_holds_nobody_up(tmp_path):
    with Sandbox(finish_after, 2, timeout_s=60.0, memory_mib=256) as sandbox:
        finished = list(sandbox.map([(tmp_path, 40)] + [(tmp_path, 0)] * 40))
    assert finished[0] == 40


def test_as_they_come_a_slow_item_never_holds_up_others_nor_are_more_taken_than_there_are_workers(tmp_path):
    taken, order = 0, []

    def items():
        nonlocal taken
        for folder, files in ((seen, 300), *[(begun, 0)] * 300):  # more than any window
            taken += 1
            yield folder, files

    seen, begun = tmp_path / "seen", tmp_path / "begun"
    seen.mkdir()
    begun.mkdir()
    with Sandbox(finish_after, 2, timeout_s=60.0, memory_mib=256) as sandbox:
        for finished, ((_, files), answer) in enumerate(sandbox.as_completed(items()), 1):
            assert isinstance(answer, int)
            assert taken - finished <= 2
            order.append(files)
            (seen / str(finished)).touch()
    assert order == [*[0] * 300, 300]


def test_as_they_come_each_item_has_its_own_result():
    with Sandbox(work, 3, timeout_s=2.0, memory_mib=256) as sandbox:
        found = list(sandbox.as_completed([*range(40), "hang", "reject"]))
    assert sorted(item for item, _ in found if isinstance(item, int)) == list(range(40))
    assert all(answer == 2 * item for item, answer in found if isinstance(item, int))
    assert {item: answer.reason for item, answer in found if isinstance(item, str)} == {
        "hang": "timeout",
        "reject": "unsupported_curve",
    }


def test_a_worker_that_dies_between_items_costs_none():
    with Sandbox(work, 1, timeout_s=10.0, memory_mib=256) as sandbox:
        assert list(sandbox.map([1])) == [2]
        (worker,) = sandbox._workers
        worker.process.kill()
        worker.process.join()
        assert list(sandbox.map([2, 3])) == [4, 6]


@pytest.mark.parametrize("how", ["segfault", "hang"])
def test_what_is_tried_twice_is_lost_only_if_it_fails_twice(tmp_path, how):
    tasks = []
    for times in (0, 1, 2):
        (tmp_path / str(times)).mkdir()
        tasks.append((tmp_path / str(times), how, times))
    with Sandbox(fails_at_first, 2, timeout_s=1.0, memory_mib=256, tries=2) as sandbox:
        first, second, third = sandbox.map(tasks)
    assert (first, second) == (0, 1)
    assert isinstance(third, Failure)
    assert len(list((tmp_path / "2").iterdir())) == 2


def test_a_pool_serves_several_maps_and_stops_its_workers():
    with Sandbox(work, 2, timeout_s=10.0, memory_mib=256) as sandbox:
        assert list(sandbox.map([1, 2, 3])) == [2, 4, 6]
        assert list(sandbox.map([])) == []
        assert list(sandbox.map([4])) == [8]
        processes = [worker.process for worker in sandbox._workers]
    assert not any(process.is_alive() for process in processes)


def test_a_script_can_give_a_function_of_its_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pipeline.execution.sandbox import Sandbox\n"
        "def double(item):\n    return 2 * item\n"
        "if __name__ == '__main__':\n"
        "    with Sandbox(double, 2, 10, 256) as sandbox:\n        print(list(sandbox.map(range(5))))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=False)
    assert found.stdout == "[0, 2, 4, 6, 8]\n", found.stderr


def test_a_worker_that_hangs_dies_with_the_process_that_started_it(tmp_path):
    script = tmp_path / "hangs.py"
    script.write_text(
        "import os, time\n"
        "from pipeline.execution.sandbox import Sandbox\n"
        "def work(path):\n"
        "    os.write(1, str(os.getpid()).encode() + b'\\n')\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    with Sandbox(work, 1, timeout_s=600.0, memory_mib=256) as sandbox:\n"
        "        list(sandbox.map([0]))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=env) as process:
        worker = psutil.Process(int(process.stdout.readline()))
        process.kill()
    assert psutil.wait_procs([worker], timeout=30)[1] == []


@pytest.mark.parametrize("asked", [0, 1])
def test_a_worker_whose_command_is_gone_ends_without_a_word(monkeypatch, asked):
    """Before it is asked for anything, and while it works."""
    alive, _ = os.pipe()
    monkeypatch.setattr(forkserver._forkserver, "_forkserver_alive_fd", alive)
    ours, theirs = multiprocessing.Pipe()
    for _ in range(asked):
        ours.send(1)
    if (worker := os.fork()) == 0:
        ours.close()
        try:
            time.sleep(0.2 * (1 - asked))  # until the other end is closed
            _serve(lambda _: time.sleep(0.3), theirs, 100_000)
            os._exit(0)
        finally:
            os._exit(1)
    theirs.close()
    if asked:
        ours.recv()  # it is ready
    ours.close()
    assert os.waitpid(worker, 0)[1] == 0
