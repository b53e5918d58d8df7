"""Kernel work that hangs, crashes or eats memory costs one task."""

import os
import signal
import time

import pytest

from pipeline.cad.sandbox import Failure, Sandbox
from pipeline.errors import RejectError


def work(item):
    match item:
        case "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
            while True:
                time.sleep(1)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "memory":
            return len(bytearray(16 << 30))
        case "exit":
            os._exit(3)
        case "reject":
            raise RejectError("unsupported_curve", "Nurbs")
        case "bug":
            raise KeyError("x")
    return item * 2


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


def test_a_pool_serves_several_maps_and_stops_its_workers():
    with Sandbox(work, 2, timeout_s=10.0, memory_mib=256) as sandbox:
        assert list(sandbox.map([1, 2, 3])) == [2, 4, 6]
        assert list(sandbox.map([])) == []
        assert list(sandbox.map([4])) == [8]
        processes = [worker.process for worker in sandbox._workers]
    assert not any(process.is_alive() for process in processes)
