"""A study trains its variants as DVC experiments, beside the workspace."""

import json

STUDY = "variants: {another_rate: {curriculum: {stage3_all: {lr: 5e-4}}}}\n"


def test_variants_become_experiments_and_the_workspace_stays(copy):
    for line in ("config user.name someone", "config user.email someone@example.com", "add -A", "commit -qm begin"):
        copy.run("git", *line.split())
    (copy.folder / "presets/studies/rate.yaml").write_text(STUDY)
    names = ("params.yaml", "checkpoints/stage3_all/adapter_model.safetensors", "metrics/summary.json")
    before = [copy.read(name) for name in names]
    assert "another_rate | 1" in copy.run("cadmllm", "study", "rate", "--seeds", "1")
    assert [copy.read(name) for name in names] == before
    figures = json.loads(copy.read("studies/rate/figures.json"))
    own = json.loads(copy.read("metrics/train/stage3_all.json"))["validation"]
    assert figures["another_rate"]["validation_loss.text"]["mean"] != own["text"]
    again = copy.run("cadmllm", "study", "rate", "--seeds", "1")
    assert again.count("has run") == 1
    assert b"<svg" in copy.read("studies/rate/plot.svg")
    table = copy.run("dvc", "exp", "list", "--name-only").split()
    assert table == ["rate-another-rate-0"]
