"""What scripts and terminals expect of a command: JSON, exit codes, silence, no colours, a look at what runs."""

import json
import re
import signal
import subprocess
import time

import pytest

from pipeline.runtime.commands import color
from tests.func.conftest import BIN

GENERATE = ("generate", "A plate with four holes.", "--max-tokens", "96")


def test_json_where_scripts_read(done, tmp_path):
    found = json.loads(done.call("-q", *GENERATE, "--json", "--out", str(tmp_path / "part.json")))
    assert found["file"] == str(tmp_path / "part.json")
    assert {"tokens", "extrusions", "log_likelihood", "misfit", "steps", "candidates", "solids"} <= found.keys()
    status = json.loads(done.call("status", "--json"))
    assert len(status["stages"]) == 15
    assert all(stage["done"] for stage in status["stages"])


def test_status_says_in_json_why_a_stage_would_run(copy):
    copy.change("epochs: 1", "epochs: 2", after="stage1_text:")
    stages = {stage["stage"]: stage for stage in json.loads(copy.call("status", "--json"))["stages"]}
    assert not stages["train@stage1_text"]["done"]
    assert any("stage1_text" in reason for reason in stages["train@stage1_text"]["reasons"])


def test_quiet_says_results_alone(done, tmp_path):
    loud = done.call(*GENERATE, "--out", str(tmp_path / "part.json"))
    silent = done.call("--quiet", *GENERATE, "--out", str(tmp_path / "part.json"))
    assert "writing on cpu" in loud
    assert silent == f"{tmp_path / 'part.json'}: " + silent.partition(": ")[2]
    assert silent.count("\n") == 1


def test_verbose_says_where_an_error_comes_from(done):
    short = done.call("cad", "show", "nowhere.json", code=1)
    long = done.call("--verbose", "cad", "show", "nowhere.json", code=1)
    assert short == "error: nowhere.json does not exist, or is no file\n"
    assert long.endswith(short)
    assert "Traceback" in long


@pytest.mark.parametrize("colorless", [False, True])
def test_no_color(done, monkeypatch, colorless):
    """As click decides it: colours are what is not stripped where there is no terminal."""
    monkeypatch.setenv("NO_COLOR", "1" if colorless else "")
    assert color("red") == (None if colorless else "red")


def test_exit_codes(done):
    done.call("status", code=0)
    done.call("cad", "show", "nowhere.json", code=1)
    done.call("cad", "shwo", code=2)


def test_a_run_is_watched(copy):
    copy.change("epochs: 1", "epochs: 3000", after="stage1_text:")
    watching = copy.start("cadmllm", "status", "--watch")
    command = [BIN / "cadmllm", "train", "stage1_text"]  # by its own name, not forked
    training = subprocess.Popen(command, cwd=copy.folder, env=copy.env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not re.search(r"train-stage1_text: step \d+", watching.said()) and time.monotonic() < deadline:
        time.sleep(0.2)
    training.kill()
    training.wait()
    watching.send_signal(signal.SIGINT)
    said = watching.communicate(timeout=30)[0]
    assert watching.returncode == 0, said
    assert re.search(r"cadmllm train stage1_text, process \d+: 0:\d\d, \d+ process", said)
    assert re.search(r"train-stage1_text: step \d+, loss \d", said)
