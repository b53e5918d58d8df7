"""What a checkpoint's config.json says, and what is loaded by it."""

import importlib
import json

import pytest
import torch

from pipeline.decoding.constrained import GrammarProcessor
from pipeline.decoding.generate import Decoding, generate_tokens
from pipeline.generation.likelihood import score
from pipeline.generation.pretrained import CadMllm
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import CheckpointConfig, load_checkpoint
from pipeline.model.inputs import Inputs, collate
from pipeline.runtime.device import DTYPES, autocast
from pipeline.runtime.errors import UserError
from tests.unit.conftest import GRAMMAR, inputs
from tests.unit.test_model import save


@pytest.fixture
def checkpoint(model, llm_folder, tmp_path):
    save(model, tmp_path / "c", llm_folder)
    return tmp_path / "c"


def rewrite(folder, change):
    path = folder / "config.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def text_loss(model):
    with torch.no_grad(), autocast(model.device, model.dtype):
        return model(collate([Inputs(i.prompt, i.program) for i in inputs(model)], {})).item()


@pytest.mark.parametrize("name", DTYPES)
def test_frozen_weights_are_loaded_as_they_were_trained(llm_folder, smoke, tmp_path, name):
    model = CadMllmModel(llm_folder, smoke.model, GRAMMAR, 0, DTYPES[name])
    save(model, tmp_path / "c", llm_folder)
    config = CheckpointConfig.read(tmp_path / "c")
    assert (config.dtype, config.quantization, config.weights) == (name, "none", name)
    again = load_checkpoint(tmp_path / "c", llm_folder)
    assert again.causal_lm.model.layers[0].mlp.up_proj.weight.dtype == DTYPES[name]
    assert text_loss(again) == text_loss(model)
    loaded = CadMllm.from_pretrained(tmp_path / "c", llm_folder.parent, "cpu")
    assert (loaded.model.dtype, loaded.combinations) == (DTYPES[name], ("text",))
    other = CadMllm.from_pretrained(tmp_path / "c", llm_folder.parent, "cpu", dtype="float32")
    assert other.model.dtype == torch.float32
    with pytest.raises(UserError, match="one of float32, bfloat16, float16"):
        CadMllm.from_pretrained(tmp_path / "c", llm_folder.parent, "cpu", dtype="int8")
    with pytest.raises(UserError, match="one of none, nf4"):
        CadMllm.from_pretrained(tmp_path / "c", llm_folder.parent, "cpu", quantization="int4")


def test_four_bit_weights_are_loaded_as_such_and_where_they_cannot_be_it_is_told(
    checkpoint, llm_folder, tmp_path, monkeypatch
):
    rewrite(checkpoint, lambda document: document.update(quantization="nf4", dtype="bfloat16"))
    assert CheckpointConfig.read(checkpoint).weights == "nf4, computed in bfloat16"
    pytest.importorskip("bitsandbytes")
    model = load_checkpoint(checkpoint, llm_folder)
    assert any(type(module).__name__ == "Linear4bit" for module in model.modules())
    save(model, tmp_path / "again", llm_folder)
    assert (tmp_path / "again/config.json").read_bytes() == json_bytes(checkpoint / "config.json")

    find = importlib.import_module

    def missing(name, *args):
        if name == "bitsandbytes":
            raise ImportError("No module named 'bitsandbytes'")
        return find(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"nf4 weights need bitsandbytes .*quantization='none'"):
        CadMllm.from_pretrained(checkpoint, llm_folder.parent, "cpu")
    whole = CadMllm.from_pretrained(checkpoint, llm_folder.parent, "cpu", quantization="none")
    assert not any(type(module).__name__ == "Linear4bit" for module in whole.model.modules())


def json_bytes(path):
    """A JSON file as checkpoints have it."""
    return (json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True) + "\n").encode()


@pytest.mark.parametrize("key", CheckpointConfig.model_fields)
def test_a_key_that_is_lost_is_named_with_its_file(checkpoint, llm_folder, key):
    rewrite(checkpoint, lambda document: document.pop(key))
    with pytest.raises(UserError, match=rf"c/config\.json has 1 fault:\n  {key}: Field required"):
        CadMllm.from_pretrained(checkpoint, llm_folder.parent, "cpu")


def test_a_checkpoint_that_does_not_say_what_its_weights_were_is_refused_with_a_way_out(checkpoint, llm_folder):
    def to_old(document):
        document["format"] = 1
        del document["dtype"], document["quantization"]

    rewrite(checkpoint, to_old)
    with pytest.raises(UserError, match=r"config\.json is of format 1.*Train its stage again") as told:
        load_checkpoint(checkpoint, llm_folder)
    advice = json.loads("{" + str(told.value).rpartition("had them: ")[2] + "}")
    rewrite(checkpoint, lambda document: document.update(advice))
    assert load_checkpoint(checkpoint, llm_folder).dtype == torch.float32


@pytest.mark.parametrize("name", DTYPES)
def test_programs_are_written_and_scored_in_the_models_dtype_with_logits_in_float32(llm_folder, smoke, name):
    model = CadMllmModel(llm_folder, smoke.model, GRAMMAR, 0, DTYPES[name])
    inner, logits = set(), set()
    model.causal_lm.model.layers[0].register_forward_pre_hook(lambda _, args: inner.add(args[0].dtype))
    model.causal_lm.register_forward_hook(lambda *given: logits.add(given[-1].logits.dtype))
    items = [Inputs(item.prompt, []) for item in inputs(model)]
    programs = generate_tokens(model, items, Decoding(20))
    assert (inner, logits) == ({DTYPES[name]}, {torch.float32})
    for item, (tokens,) in zip(items, programs, strict=True):
        with torch.no_grad(), autocast(model.device, model.dtype):
            loss = model(collate([Inputs(item.prompt, tokens)], {})).item()
        assert score(model, item, [tokens]) == pytest.approx([-loss], rel=1e-5)


def test_logits_that_are_no_numbers_are_told():
    scores = torch.full((1, GRAMMAR.size), float("nan"))
    with pytest.raises(UserError, match="not numbers"):
        GrammarProcessor(GRAMMAR, 20)(torch.zeros(1, 0, dtype=torch.long), scores)
