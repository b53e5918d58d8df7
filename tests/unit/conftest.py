"""A tiny language model, the whole model around it, and inputs of every kind.

What takes seconds to import, fixtures import: xdist's main process, which runs no test, waits for none of it.
"""

import contextlib
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.cad.language.grammar import Grammar
from pipeline.planning.params import Params
from pipeline.settings import yaml_files

ROOT = Path(__file__).resolve().parents[2]
GRAMMAR = Grammar(8)
DETAILS = {"encoder": {"source": "init", "sha256": "x"}}


@pytest.fixture(scope="session")
def smoke():
    return preset("smoke")


def preset(name):
    """A preset's parameters."""
    from pipeline.planning import presets

    with contextlib.chdir(ROOT):
        document = yaml_files.plain(presets.compose(name))
    return Params.parse(json.loads(json.dumps(document)), name)


# Heads of Qwen3 are wider than their share of the model, as in its released sizes.
LLMS = {
    "llama tied": {},
    "qwen2 untied": {"model_type": "qwen2", "tie_word_embeddings": False},
    "qwen3 tied": {"model_type": "qwen3", "head_dim": 24},
}


@pytest.fixture(scope="session")
def built(tmp_path_factory, smoke):
    """Folders of language models by their name, each made once."""
    from pipeline.weights.resolve import build_models

    @functools.cache
    def build(name):
        folder = tmp_path_factory.mktemp("models")
        llm = smoke.models.llm
        other = llm.model_copy(update={"architecture": {**llm.architecture, **LLMS[name]}})
        build_models(smoke.models.model_copy(update={"llm": other}), 0, folder / "s", folder / "m", lambda *_: None)
        roughen(folder / "m/llm/model.safetensors")
        return folder / "m" / "llm"

    return build


@pytest.fixture(scope="module", params=LLMS)
def llm_folder(request, built):
    """Language models that differ in what they tie, in biases (Qwen2) and in norms of queries and keys (Qwen3)."""
    return built(request.param)


def roughen(path):
    """Biases begin as zeros and norms as ones: of no use, until they are something else."""
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith("bias") or "norm" in name:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def model(llm_folder, smoke):
    from pipeline.model.cad_mllm import CadMllmModel

    made = CadMllmModel(llm_folder, smoke.model, GRAMMAR, 0, torch.float32)
    made.add_projector("point_cloud", (4, 16), DETAILS)
    made.add_projector("image", (2, 4, 16), DETAILS)
    made.set_trainable_params(True, ("point_cloud", "image"), "new")
    with torch.no_grad():  # PEFT starts B at zero: make the adapter count
        for name, parameter in made.lora().items():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05)
    return made


def cut_off(path):
    """Leave half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def listed(dataset):
    """Entries and rejects of a dataset, as lists."""
    found = dataset.listing()
    return list(found), list(found.rejects)


def inputs(model, seed=0):
    """Four sequences with four combinations of modalities and different lengths."""
    from pipeline.model.inputs import Inputs, tokenise_prompts

    rng = np.random.default_rng(seed)
    captions = ["a plate", "a much longer caption of a part", "x", "washer"]
    prompts = tokenise_prompts(model.tokenizer, captions, 64)
    made = []
    for i, prompt in enumerate(prompts):
        points = rng.normal(size=(4, 16)).astype(np.float16) if i in (1, 3) else None
        image = rng.normal(size=(2, 4, 16)).astype(np.float16) if i in (2, 3) else None
        program = rng.integers(0, GRAMMAR.size, 5 + 7 * i).tolist()
        made.append(Inputs(prompt, program, points, image, (0, 1) if image is not None else ()))
    return made


@pytest.fixture
def mark(tmp_path):
    """A file that must not be there in the end."""
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()
