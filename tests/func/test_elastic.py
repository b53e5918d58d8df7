"""Machines that train together, and one that is lost: torchrun's agents on this machine, as real processes."""

import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from tests.func.conftest import Project
from tests.func.test_training import losses, tensors

# What they compare with is trained once.
pytestmark = [pytest.mark.longer, pytest.mark.xdist_group("elastic")]

STAGE = "stage1_text"
# A second that torchrun waits for more machines, and seconds without a word after which one is lost.
SOON = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=6"

LOST = "another process is gone, or has not answered for too long; the last saved state stays"


class Machines:
    """Agents of torchrun on this machine, with a process each, that share a project's folder.

    Torchrun ranks those of one address by process id: who starts first has rank 0.
    """

    def __init__(self, project: Project) -> None:
        self.project, self.agents, self.outputs = project, [], []
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self.endpoint = f"localhost:{free.getsockname()[1]}"

    def start(self, is_host: bool, nodes: str = "1:2", processes: str = "1", restarts: str = "3", **env: str) -> None:
        """One more; ``is_host`` keeps what all of them know of each other."""
        command = (
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", processes),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", self.endpoint, "--rdzv-id", "cad"),
            *("--rdzv-conf", f"is_host={int(is_host)},{SOON}", "--max-restarts", restarts, "--shutdown-timeout", "60"),
            *("-m", "stages.cli", "train", STAGE),
        )
        env = {**self.project.env, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1", **env}
        self.outputs.append(self.project.folder / f"machine{len(self.agents)}.txt")
        with open(self.outputs[-1], "w") as output:
            self.agents.append(
                subprocess.Popen(command, cwd=self.project.folder, env=env, stdout=output, stderr=subprocess.STDOUT)
            )

    def said(self, number: int) -> str:
        return self.outputs[number].read_text()

    def ended(self, number: int) -> int:
        """How an agent ended."""
        return self.agents[number].wait(timeout=300)

    def worker(self, number: int) -> psutil.Process:
        """The process that an agent has started."""
        (found,) = psutil.Process(self.agents[number].pid).children()
        return found

    def freeze(self, number: int) -> list[psutil.Process]:
        """A machine that answers no more, whose connections nobody closes."""
        agent = psutil.Process(self.agents[number].pid)
        lost = [agent, *agent.children(recursive=True)]
        for each in lost:
            each.suspend()
        return lost

    def kill(self, number: int) -> None:
        """A machine that is lost, from one moment to the next."""
        for each in self.freeze(number):
            each.kill()
        self.agents[number].wait()

    def close(self) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                for each in [*psutil.Process(agent.pid).children(recursive=True), agent]:
                    each.kill()
                agent.wait()


def lengthened(project: Project) -> Project:
    project.change("epochs: 1", "epochs: 12", after=f"{STAGE}:")
    return project


@pytest.fixture
def machines(copy):
    found = Machines(lengthened(copy))
    yield found
    found.close()


@pytest.fixture(scope="module")
def expected(done, tmp_path_factory):
    """Losses and weights of two processes that nobody disturbs, and those of one."""
    found = []
    for processes in ("2", "1"):
        folder = tmp_path_factory.mktemp("undisturbed") / processes
        project = lengthened(done.copied(folder).untracked())
        project.run("cadmllm", "train", STAGE, "--nproc", processes)
        found.append((losses(project, STAGE), tensors(project.folder / "checkpoints" / STAGE)))
    return found


def wait_for_state(project: Project, newer_than: int = 0) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(int(path.name[-8:]) > newer_than for path in project.folder.glob(f"scratch/train-{STAGE}/*/state-*")):
            return
        time.sleep(0.005)
    pytest.fail("no state was saved")


def assert_trained_as(project: Project, expected) -> None:
    """As ``--nproc`` is compared: sums in another order differ in their last digits."""
    found, (loss, weights) = losses(project, STAGE), expected
    assert found.keys() == loss.keys()
    assert found == pytest.approx(loss, rel=1e-4)
    for name, value in tensors(project.folder / "checkpoints" / STAGE).items():
        np.testing.assert_allclose(value, weights[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_two_machines_train_as_two_processes_of_one(machines, expected):
    machines.start(is_host=True)
    machines.start(is_host=False)
    assert [machines.ended(0), machines.ended(1)] == [0, 0], machines.said(0) + machines.said(1)
    two, one = expected
    project = machines.project
    assert losses(project, STAGE) == two[0]
    for name, value in tensors(project.folder / "checkpoints" / STAGE).items():
        np.testing.assert_array_equal(value, two[1][name], err_msg=name)
    assert_trained_as(project, one)
    assert machines.said(0).count("2 processes") == 1
    assert "resuming" not in machines.said(0)


@pytest.mark.parametrize(("lost", "distributed"), [("last", "ddp"), ("first", "ddp"), ("first", "fsdp2")])
def test_who_is_left_goes_on_from_the_last_saved_step(machines, expected, lost, distributed):
    """Also where the one is lost that wrote states: whoever is the first of the rest writes the next.

    Of shards each has written its own: who is left puts them together.
    """
    machines.project.change("distributed: ddp", f"distributed: {distributed}")
    machines.start(is_host=lost == "last")
    machines.start(is_host=lost == "first")
    wait_for_state(machines.project)
    number, left = (1, 0) if lost == "last" else (0, 1)
    machines.kill(number)
    assert machines.ended(left) == 0, machines.said(left)
    said = machines.said(left)
    assert said.count(LOST) == 1
    assert said.count("resuming after step") == said.count("checkpoint in") == 1
    assert "Traceback" not in said.replace("Traceback : to enable", "")
    assert "on cpu\n" in said  # alone
    for each in expected:
        assert_trained_as(machines.project, each)


def test_a_process_that_is_killed_is_started_again(machines, expected):
    machines.start(is_host=True)
    machines.start(is_host=False)
    wait_for_state(machines.project)
    machines.worker(0).kill()
    assert [machines.ended(0), machines.ended(1)] == [0, 0], machines.said(0) + machines.said(1)
    assert machines.said(0).count("2 processes") == 2
    assert_trained_as(machines.project, expected[0])


def test_a_machine_that_answers_no_more_is_noticed(machines, expected):
    for is_host in (True, False):
        machines.start(is_host, CADMLLM_PEER_TIMEOUT_S="15")
    wait_for_state(machines.project)
    machines.freeze(1)
    assert machines.ended(0) == 0, machines.said(0)
    assert machines.said(0).count(LOST) == 1
    assert_trained_as(machines.project, expected[1])


def test_a_machine_that_comes_later_takes_part(machines, expected):
    """Torchrun stops who is at work, which is no stop of the user's: all go on together from the step at hand."""
    machines.start(is_host=True)
    wait_for_state(machines.project)
    machines.worker(0).suspend()  # else it may be done before the other has come
    machines.start(is_host=False)
    time.sleep(3)
    machines.worker(0).resume()
    assert [machines.ended(0), machines.ended(1)] == [0, 0], machines.said(0) + machines.said(1)
    said = machines.said(0)
    assert "what is finished is kept, and torchrun goes on with it, unless it was stopped itself" in said
    assert "Go on with" not in said
    assert "2 processes" in said.split("resuming after step")[0].rpartition("stopped by")[2]
    assert_trained_as(machines.project, expected[1])


def test_a_stop_of_all_machines_keeps_the_step_at_hand(machines, expected):
    for is_host in (True, False):
        machines.start(is_host)
    wait_for_state(machines.project)
    for agent in machines.agents:
        agent.send_signal(signal.SIGTERM)
    assert 0 not in {machines.ended(0), machines.ended(1)}
    assert "stopped by SIGTERM; what is finished is kept" in machines.said(0)
    output = machines.project.run("cadmllm", "train", STAGE)
    assert "resuming after step" in output
    assert_trained_as(machines.project, expected[1])


def test_where_one_machine_is_stopped_the_other_goes_on(machines, expected):
    for is_host in (True, False):
        machines.start(is_host)
    wait_for_state(machines.project)
    machines.agents[1].send_signal(signal.SIGTERM)
    assert machines.ended(0) == 0, machines.said(0)
    assert "stopped by a signal to another process; what is finished is kept, and torchrun" in machines.said(0)
    assert machines.ended(1) != 0
    assert_trained_as(machines.project, expected[1])


def test_who_hosts_the_rendezvous_is_not_to_be_lost(machines):
    """What torchrun's c10d cannot do: the rest ends; started again, it goes on."""
    machines.start(is_host=True)
    machines.start(is_host=False)
    wait_for_state(machines.project)
    machines.kill(0)
    assert machines.ended(1) != 0
    assert "RendezvousConnectionError" in machines.said(1)
    assert "resuming after step" in machines.project.run("cadmllm", "train", STAGE)


def test_a_mistake_is_told_once_at_each_start(machines):
    """This one is to leave out what lets processes that are started again find each other."""
    machines.start(True, nodes="1", processes="2", restarts="1", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="0")
    assert machines.ended(0) == 1
    assert machines.said(0).count("error: torchrun --max-restarts needs") == 2, machines.said(0)
