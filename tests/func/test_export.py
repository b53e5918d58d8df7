"""A model and its dataset as folders that others load: elsewhere, with nothing beside them."""

import contextlib
import json
import shutil
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.generation.pretrained import CadMllm
from pipeline.model.checkpoint_folder import check_checkpoint
from pipeline.runtime.errors import UserError
from pipeline.settings.resolved import model_sha256
from pipeline.shards.reader import CorpusReader

CAPTION = "A plate with four circular holes."


def written(folder, **settings):
    return [found.candidate.tokens for found in CadMllm.from_pretrained(folder, **settings).generate(CAPTION, **FEW)]


FEW = {"num_candidates": 3, "max_new_tokens": 64}


@pytest.mark.parametrize("merged", [False, True])
def test_an_exported_model_writes_the_same_anywhere(done, tmp_path, merged, monkeypatch):
    said = done.call("export", "model", str(tmp_path / "model"), *(["--merged"] if merged else []))
    assert "takes text, text+point_cloud" in said
    with contextlib.chdir(done.folder):
        here = written("checkpoints/stage3_all")
    monkeypatch.chdir(tmp_path)  # no models/ beside it
    assert written("model") == here
    check_checkpoint(tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    for part in ("36 models (test 10", "| llm | 26,816 | init |", '"stage": "stage3_all"', "| valid |", "cannot do"):
        assert part in card, part
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["llm_sha256"] == model_sha256(tmp_path / "model/models/llm")
    out = done.call("export", "model", str(tmp_path / "model"), code=1)
    assert "is there already" in out


def test_a_name_on_the_hub_is_fetched(done, tmp_path, monkeypatch):
    """From the hub's cache, as it lies on a disk after a download: there is no network here."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub/models--somebody--parts"
    done.call("export", "model", str(place / "snapshots/0123"))
    (place / "refs").mkdir()
    (place / "refs/main").write_text("0123")
    monkeypatch.chdir(tmp_path)
    assert len(written("somebody/parts")) >= 1
    with pytest.raises(UserError, match="could not be had from the Hugging Face hub"):
        CadMllm.from_pretrained("nobody/nothing")


def test_what_does_not_belong_together_is_told(copy, tmp_path):
    config = copy.folder / "models/llm/config.json"
    config.chmod(0o644)
    config.write_text(config.read_text() + " ")
    assert "is another model than" in copy.call("export", "model", str(tmp_path / "model"), code=1)
    assert not (tmp_path / "model").exists()


def test_an_upload_that_fails_leaves_the_folder(done, tmp_path):
    said = done.call("export", "model", str(tmp_path / "model"), "--push", "somebody/parts", code=1)
    assert "is written; " in said
    assert (tmp_path / "model/README.md").is_file()


def test_the_dataset_is_read_by_webdataset_alone(done, tmp_path):
    said = done.call("export", "dataset", str(tmp_path / "data"), "--geometry")
    assert "36 samples" in said
    read = (
        "import json, sys, webdataset\n"
        "found = webdataset.WebDataset(sys.argv[1:], shardshuffle=False)\n"
        "print(json.dumps([[sample['__key__'], sorted(sample)] for sample in found]))"
    )

    def samples(kind):
        shards = sorted(map(str, (tmp_path / "data" / kind).glob("train-*.tar")))
        command = [sys.executable, "-c", read, *shards]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    corpus = CorpusReader(done.folder / "data/corpus")
    keys = [corpus.key(row) for row in corpus.rows("train")]
    assert [key for key, _ in samples("corpus")] == [key for key, _ in samples("features/image")] == keys
    assert {"json", "program.npy"} <= set(samples("corpus")[0][1])
    card = (tmp_path / "data/README.md").read_text()
    assert "| `features/image/` | 36 | `image.npy` 2 x 4 x 16 float16 |" in card


def test_a_model_that_writes_text_is_plain_transformers_and_peft(copy, tmp_path):
    """A stage of text alone, in the language model's own tokens, its embeddings trained."""
    shutil.rmtree(copy.folder / "checkpoints")
    copy.change("vocabulary: cad", "vocabulary: text")
    copy.run("cadmllm", "train", "stage1_text")
    checkpoint = copy.folder / "checkpoints/stage1_text"
    ours = CadMllm.from_pretrained(checkpoint, copy.folder / "models").model.eval()
    ids = torch.tensor([ours.tokenizer(f"CAD program: {CAPTION}", add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        expected = ours.causal_lm(inputs_embeds=ours.text_embedding(ids)).logits
    for name, merged in (("model", False), ("merged", True)):
        folder = tmp_path / name
        copy.call("export", "model", str(folder), "--checkpoint", str(checkpoint), *(["--merged"] if merged else []))
        plain = AutoModelForCausalLM.from_pretrained(folder / "models/llm", dtype=torch.float32)
        if not merged:
            plain = PeftModel.from_pretrained(plain, str(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.decode(ids[0]) == ours.tokenizer.decode(ids[0])
        with torch.inference_mode():
            torch.testing.assert_close(plain.eval()(ids).logits, expected, rtol=1e-4, atol=1e-4)
        assert json.loads((folder / "config.json").read_text())["model"]["vocabulary"] == "text"
        assert "AutoModelForCausalLM" in (folder / "README.md").read_text()
