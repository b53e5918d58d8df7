"""The plain decoder: what it takes, and that it writes the same bits as transformers with PEFT."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.options import Decoding
from pipeline.decoding.plain.model import PlainModel, fits
from pipeline.generation.likelihood import score
from pipeline.generation.pretrained import CadMllm
from pipeline.model.cad_mllm import CPU, CadMllmModel
from pipeline.model.checkpoint import load_checkpoint, trained_tensors
from pipeline.model.checkpoint_folder import ADAPTER, CheckpointConfig
from pipeline.model.inputs import Inputs, tokenise_prompts
from pipeline.runtime.errors import UserError
from tests.conftest import longer
from tests.unit.conftest import GRAMMAR, ROOT, inputs
from tests.unit.test_model import save

GREEDY, SAMPLED = Decoding(48), Decoding(48, 3, temperature=0.7, top_p=0.9, seed=5)


KINDS = ("tied", "untied", "grouped")
PART = {"target_modules": ("q_proj", "down_proj"), "alpha": 3.0}


@pytest.fixture(params=KINDS)
def llama(request, built, tmp_path):
    """Language models of the Llama kind: with one matrix for both ends or two, with heads that share keys."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "models/llm"
    shutil.copytree(built("llama tied"), folder)
    changes = {"tied": {}, "untied": {"tie_word_embeddings": False}, "grouped": {"num_key_value_heads": 1}}
    config = json.loads((folder / "config.json").read_text())
    assert config["num_attention_heads"] > 1
    (folder / "config.json").write_text(json.dumps(config | changes[request.param]))
    if request.param != "tied":
        given = load_file(folder / "model.safetensors")
        torch.manual_seed(1)
        made = AutoModelForCausalLM.from_pretrained(folder, ignore_mismatched_sizes=True).state_dict()
        given |= {name: tensor.clone() for name, tensor in made.items()}
        save_file(given, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_checkpoint(llm_folder, smoke, folder, **lora):
    params = smoke.model.model_copy(update={"lora": smoke.model.lora.model_copy(update=lora)})
    model = CadMllmModel(llm_folder, params, GRAMMAR, 0, torch.float32)
    for modality, shape in (("point_cloud", (4, 16)), ("image", (2, 4, 16))):
        model.add_projector(modality, shape, {})
    model.set_trainable_params(True, ("point_cloud", "image"), "all", {1, 2, 3})
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in (*model.lora().values(), model.text_embedding.rows):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    save(model, folder, llm_folder)
    return folder


def both(checkpoint, llm_folder):
    return [load_checkpoint(checkpoint, llm_folder, kind=kind).eval() for kind in (CadMllmModel, PlainModel)]


@pytest.mark.parametrize(
    ("llama", "lora"),
    [
        ("tied", PART),
        ("untied", {}),
        ("grouped", {}),
        longer("tied", {}),
        *(longer(kind, PART) for kind in KINDS[1:]),
    ],
    indirect=["llama"],
)
@pytest.mark.slow
def test_programs_and_likelihoods_are_those_of_transformers(llama, smoke, tmp_path, lora):
    checkpoint = make_checkpoint(llama, smoke, tmp_path / "c", **lora)
    known, plain = both(checkpoint, llama)
    assert fits(CheckpointConfig.read(checkpoint), llama, CPU)
    for item in inputs(known):
        prompt = Inputs(item.prompt, [], item.points, item.image, item.views)
        for decoding in (GREEDY, SAMPLED):
            programs = generate_tokens(known, [prompt], decoding)
            assert generate_tokens(plain, [prompt], decoding) == programs
            assert score(plain, prompt, programs[0]) == score(known, prompt, programs[0])


def test_a_checkpoint_s_tensors_are_all_taken(llama, smoke, tmp_path):
    known, plain = both(make_checkpoint(llama, smoke, tmp_path / "c"), llama)
    expected, found = trained_tensors(known), trained_tensors(plain)
    assert {file: {*part} for file, part in found.items()} == {file: {*part} for file, part in expected.items()}
    for file, part in expected.items():
        for name, tensor in part.items():
            assert torch.equal(found[file][name], tensor), name


def test_prompts_have_the_same_ids(llama, smoke, tmp_path):
    known, plain = both(make_checkpoint(llama, smoke, tmp_path / "c"), llama)
    captions = ["a plate", "", "«a» longer\n caption  of a part 12 mm thick <|endoftext|> <end>"]
    assert tokenise_prompts(plain.tokenizer, captions, 20) == tokenise_prompts(known.tokenizer, captions, 20)


@pytest.mark.parametrize("other", ["qwen2 untied", "qwen3 tied"])
def test_other_decoders_are_left_to_transformers(built, smoke, tmp_path, other):
    folder = built(other)
    checkpoint = make_checkpoint(folder, smoke, tmp_path / "c")
    assert not fits(CheckpointConfig.read(checkpoint), folder, CPU)
    assert type(CadMllm.from_pretrained(checkpoint, folder.parent, "cpu", alone=True).model) is CadMllmModel


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    ],
)
def test_what_it_does_not_compute_it_does_not_take(built, smoke, tmp_path, change):
    llm_folder = tmp_path / "models/llm"
    shutil.copytree(built("llama tied"), llm_folder)
    config = CheckpointConfig.read(make_checkpoint(llm_folder, smoke, tmp_path / "c"))
    assert fits(config, llm_folder, CPU)
    assert not fits(config.model_copy(update={"dtype": "bfloat16"}), llm_folder, CPU)
    described = json.loads((llm_folder / "config.json").read_text())
    (llm_folder / "config.json").write_text(json.dumps(described | change))
    assert not fits(config, llm_folder, CPU)


def test_damaged_files_are_told(llama, smoke, tmp_path):
    checkpoint = make_checkpoint(llama, smoke, tmp_path / "c")
    adapter = load_file(checkpoint / ADAPTER)
    first = min(adapter)
    save_file({name: tensor for name, tensor in adapter.items() if name != first}, checkpoint / ADAPTER)
    with pytest.raises(UserError, match=f"{first} is missing"):
        load_checkpoint(checkpoint, llama, kind=PlainModel)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        whole = (llama / name).read_bytes()
        (llama / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="holds no language model"):
            PlainModel(llama, smoke.model, GRAMMAR, 0, torch.float32)
        (llama / name).write_bytes(whole)


def test_weights_of_other_shapes_are_told(built, smoke, tmp_path):
    llm_folder = tmp_path / "models/llm"
    shutil.copytree(built("llama tied"), llm_folder)
    weights = load_file(llm_folder / "model.safetensors")
    name = "model.layers.0.self_attn.k_proj.weight"
    for instead, said in (({name: torch.zeros(3, 5)}, r"is \[3, 5\], not"), ({}, "is missing")):
        others = {key: tensor for key, tensor in weights.items() if key != name}
        save_file(others | instead, llm_folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=f"{name} {said}"):
            PlainModel(llm_folder, smoke.model, GRAMMAR, 0, torch.float32)


@pytest.mark.parametrize("described", ["[]", "{}", '{"rope_parameters": 3}', '"llama"'])
def test_what_is_no_configuration_is_left_to_transformers(built, smoke, tmp_path, described):
    llm_folder = tmp_path / "models/llm"
    shutil.copytree(built("llama tied"), llm_folder)
    config = CheckpointConfig.read(make_checkpoint(llm_folder, smoke, tmp_path / "c"))
    (llm_folder / "config.json").write_text(described)
    assert not fits(config, llm_folder, CPU)


@pytest.mark.parametrize("llama", ["tied", *map(longer, KINDS[1:])], indirect=True)
@pytest.mark.slow
def test_it_needs_neither_transformers_nor_peft(llama, smoke, tmp_path):
    """Which is what it is for: also to load and to write."""
    checkpoint = make_checkpoint(llama, smoke, tmp_path / "c")
    code = f"""
import sys
from pipeline.generation.pretrained import CadMllm
model = CadMllm.from_pretrained({str(checkpoint)!r}, {str(llama.parent)!r}, "cpu", alone=True)
model.generate("a plate", max_new_tokens=16)
print(sorted({{"transformers", "peft", "accelerate", "bitsandbytes", "torch._dynamo"}} & sys.modules.keys()))
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
