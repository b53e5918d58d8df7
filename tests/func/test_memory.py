"""Memory that runs out: one message that says what helps, and the last state is kept."""

import sys
import time

import psutil
import pytest

from tests.conftest import longer
from tests.func.wandb_files import wandb_runs

ABSURD = "10000000000000"  # more than any address space holds

# `cadmllm train`, which after its first saved state is given hardly more memory than it has by then.
TRAIN = """
import resource, psutil
from pipeline.training.loop import Trainer
from stages.cli import app

save = Trainer.save

def save_and_limit(trainer):
    save(trainer)
    limit = psutil.Process().memory_info().vms + (32 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

Trainer.save = save_and_limit
app(["train", "stage1_text"], prog_name="cadmllm")
"""


def out_of_memory(project, *command):
    """What a command says whose memory runs out."""
    output = project.run(*command, code=1)
    assert output.count("error:") == output.count("error: out of memory") == 1, output
    assert "Traceback" not in output
    return output


def test_training_that_runs_out_of_memory_says_what_helps_and_keeps_its_state(tracked):
    tracked.change("r: 4", "r: 8192")  # a step takes 200 MiB more than the model
    tracked.env["MALLOC_MMAP_THRESHOLD_"] = "1048576"  # what is freed is given back
    output = out_of_memory(tracked, sys.executable, "-c", TRAIN)
    (state,) = tracked.folder.glob("scratch/train-stage1_text/*/state-*")
    assert "out of memory on cpu at step 3 of 4, in batches of up to 6 samples and 610 positions" in output
    assert f"{state.relative_to(tracked.folder)} is kept" in output
    for helps in ("training.tokens_per_batch: ", "training.gradient_checkpointing: true", "model.lora.r: less"):
        assert helps in output
    for does_not in ("features.", "training.distributed", "text_embeddings"):
        assert does_not not in output
    died = wandb_runs(tracked.folder)[-1]
    assert (died.job_type, died.exit_code, died.summary["end/state"]) == ("stage1_text", 1, "failed")
    assert died.summary["end/reason"].startswith("out of memory on cpu at step 3 of")
    assert died.summary["end/step"] == len(died.series("train/loss")) == 2


@pytest.mark.parametrize("num_processes", ["1", longer("2")])
def test_a_model_that_does_not_fit_is_told_once(copy, num_processes):
    copy.change("r: 4", f"r: {ABSURD}")
    copy.change("dtype: float32", "dtype: bfloat16", after="training:")
    output = out_of_memory(copy, "cadmllm", "train", "stage1_text", "--nproc", num_processes)
    assert "with the model alone" in output
    assert "training.quantization: nf4" in output
    assert "training.dtype" not in output


def test_a_process_that_the_system_kills_is_told(copy):
    process = copy.start("cadmllm", "train", "stage1_text", "--nproc", "2")
    while len(children := psutil.Process(process.pid).children()) < 2:
        time.sleep(0.1)
    children[1].kill()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert "error: process 1 of 2 was ended by SIGKILL (the system does so where memory runs out)" in output
    assert "Traceback" not in output
    assert not children[0].is_running()


def test_an_evaluation_that_runs_out_of_memory_says_what_helps(copy):
    copy.change("num_candidates: 2", f"num_candidates: {ABSURD}")
    output = out_of_memory(copy, "cadmllm", "evaluate", "stage1_text")
    assert f"evaluation.num_candidates: less than {ABSURD}" in output
    assert "evaluation.batch_size: less than 4" in output
