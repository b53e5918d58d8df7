"""A stage with objective geometry, as users run it: killed and resumed, in two processes, measured and reported."""

import json
import signal

import pytest

from pipeline.curriculum.log import read_log
from tests.func.conftest import ranks
from tests.func.test_interruption import contents, kill_when, scratch_has

STAGE = "stage4_geometry"
COMMAND = ("cadmllm", "train", STAGE)
SECTION = """
  stage4_geometry:
    init_from: checkpoints/stage3_all
    point_cloud: data/features/point_cloud
    image: data/features/image
    modality_sample_probs: {text: 0.2, text+point_cloud: 0.4, text+image: 0.4}
    objective: geometry
    rollouts: {batch_size: 3, group_size: 4, temperature: 0.9, max_new_tokens: 24}
    steps: 7
    lr: 1e-3
    train_llm: true
    text_embeddings: new
    train_projectors: true
"""


@pytest.fixture
def reinforced(copy):
    copy.change("\nevaluation:", f"{SECTION}\nevaluation:")
    return copy


def lines(project, event="train"):
    return [line for line in read_log(project.folder / f"checkpoints/{STAGE}/log.jsonl") if line["event"] == event]


def test_a_stage_that_is_killed_ends_with_the_same_bytes(reinforced):
    reinforced.change("log_every: 1", "log_every: 3")  # a line of the log is about steps before and after the kill
    output = reinforced.run(*COMMAND)
    assert "reward in validation after step 0: text 0." in output
    before = contents(reinforced.folder / f"checkpoints/{STAGE}")
    figures = json.loads(reinforced.read(f"metrics/train/{STAGE}.json"))
    assert figures["programs_written"] == 4 * figures["samples_shown"] <= 4 * 7 * 3
    assert sum(line["num_programs"] for line in lines(reinforced)) == figures["programs_written"]
    assert (
        figures["reward"].keys() == figures["validation"].keys() == lines(reinforced, "validation")[0]["reward"].keys()
    )
    assert figures["target_tokens"] > figures["programs_written"]
    for line in lines(reinforced):
        assert 0 <= line["loss"] == pytest.approx(1 - line["reward"])
        assert 0 <= line["reward"] <= line["iou"] <= line["valid"] <= 1
        assert 0 <= line["spread"] <= 0.5
        assert 2 <= line["tokens"] <= 24
    assert any(line["spread"] > 0 for line in lines(reinforced))
    kill_when(reinforced, COMMAND, scratch_has(reinforced, f"train-{STAGE}/*/state-00000002"), signal.SIGKILL)
    assert "resuming after step" in reinforced.run(*COMMAND)
    assert contents(reinforced.folder / f"checkpoints/{STAGE}") == before


@pytest.mark.longer
def test_two_processes_write_and_learn_what_one_does(reinforced):
    reinforced.run(*COMMAND)
    one = lines(reinforced)
    assert "2 processes" in ranks([reinforced] * 2, *COMMAND)[0]
    for alone, together in zip(one, lines(reinforced), strict=True):
        for figure in ("reward", "iou", "valid", "spread", "tokens", "grad_norm"):
            assert together[figure] == pytest.approx(alone[figure], rel=1e-3, abs=1e-6), (alone["step"], figure)
    reinforced.change("distributed: ddp", "distributed: fsdp2")
    assert "training.distributed: ddp" in "".join(ranks([reinforced] * 2, *COMMAND, code=1))


def test_frozen_weights_in_four_bits(reinforced):
    pytest.importorskip("bitsandbytes")
    reinforced.change("quantization: none", "quantization: nf4")
    reinforced.call(*COMMAND[1:])
    assert len(lines(reinforced)) == 7


@pytest.mark.longer
def test_it_is_evaluated_and_reported_as_any_stage(reinforced):
    reinforced.leave_inputs_alone()
    output = reinforced.run("dvc", "repro")
    assert f"train@{STAGE}" in output
    assert "train@stage3_all" not in output.split("Running stage")[1]
    summary = json.loads(reinforced.read("metrics/summary.json"))
    measured = json.loads(reinforced.read(f"metrics/evaluate/{STAGE}.json"))["combinations"]
    assert summary["loss"]["all"] == pytest.approx(measured["text+point_cloud+image"]["validation_loss"], abs=1e-3)
    page = reinforced.read("report/index.html").decode()
    assert "reward in validation" in page
    assert "1 less the mean reward" in page
    plotted = reinforced.read("plots/train_loss.csv").decode()
    assert "stage3_all" in plotted
    assert STAGE not in plotted, "other units"
    assert len(reinforced.read(f"plots/{STAGE}/train.csv").splitlines()) == 1 + 7
