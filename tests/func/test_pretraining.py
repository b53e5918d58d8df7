"""The encoders and the language model of the project's own: made, killed, shipped and used."""

import io
import json
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pipeline.cad.language.grammar import Grammar
from pipeline.curriculum.settings import COMBINATIONS
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.projector import start_from_pretrained
from pipeline.planning.params import Params
from pipeline.serving.examples import SHOWN, held_out, read_examples
from pipeline.shards.reader import CorpusReader, ShardReader
from pipeline.shards.seen import read_seen
from pipeline.weights.projectors import take_projectors
from tests.conftest import longer
from tests.func.conftest import make_project
from tests.func.test_interruption import contents, kill_when, scratch_has

pytestmark = pytest.mark.xdist_group("pretraining")  # one process makes the project that these tests share
SMALL = {"steps": 6, "batch_size": 4, "save_every": 2, "log_every": 1}


def rewrite(project, change):
    """Change params.yaml as a document."""
    yaml, path = YAML(), project.folder / "params.yaml"
    document = yaml.load(path)
    change(document)
    yaml.dump(document, path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The pretraining preset, with a few models and tiny networks."""
    made = make_project(tmp_path_factory.mktemp("pretraining"))
    made.call("preset", "use", "pretraining")

    def change(p):
        p["data"]["synthetic"]["num_models"] = 24
        p["data"]["split"] = {"validation": 0.1, "test": 0.2}
        p["geometry"] |= {"num_points": 256, "num_views": 2, "image_size": 64, "num_queries": 256}
        p["models"]["image_encoder"]["architecture"] |= {"hidden_size": 16, "num_attention_heads": 2, "image_size": 56}
        p["models"]["point_cloud_encoder"]["architecture"] |= {"width": 16, "num_heads": 2, "num_latents": 3}
        p["models"]["llm"]["architecture"] |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        recipes = p["pretraining"]
        recipes["embedding_width"], recipes["vocabulary_size"] = 8, 320
        recipes["reconstruction"] |= {**SMALL, "num_points": 64}
        recipes["shape_encoder"] |= {**SMALL, "num_points": 64, "num_queries": 32, "latent_width": 4}
        recipes["image_encoder"] |= {**SMALL, "num_views": 1, "pool": 2, "heads": {**SMALL, "lr": 1e-3}}
        recipes["language_model"] |= {**SMALL, "num_points": 64, "num_views": 1}
        recipes["text_model"] |= SMALL

    rewrite(made, change)
    for command in (["models"], ["corpus"], ["geometry"]):
        made.run("cadmllm", *command)
    for name in ("shape-encoder", "reconstruction", "image-encoder", "language-model"):
        made.run("cadmllm", "pretrain", name)
    return made


def test_a_language_model_has_projectors_for_the_encoders_that_it_learnt_with(project):
    pretrained = project.folder / "pretrained"
    shapes = pretrained / "encoders/shape_encoder"
    assert weights(shapes) == weights(pretrained / "reconstruction/shape_encoder")  # finished where pictures begin
    for folder, encoders in (
        (pretrained / "reconstruction/language_model", {"point_cloud": shapes}),
        (pretrained / "language_model", {"point_cloud": shapes, "image": pretrained / "encoders/image_encoder"}),
    ):
        assert read_seen(folder) == programs(project, "train")
        taken = project.folder / "taken"
        taken.mkdir(exist_ok=True)
        assert take_projectors(folder, taken, encoders) == list(encoders)
        model = CadMllmModel(folder, Params.load(project.folder / "params.yaml").model, Grammar(8), 0, torch.float32)
        model.add_projector("point_cloud", (4, 16), {})
        model.add_projector("image", (2, 4, 16), {})
        assert all(start_from_pretrained(model.projectors[name], taken, name) for name in encoders)
    losses = json.loads((pretrained / "language_model/scores.json").read_text())["validation_loss"]
    assert set(losses) == set(COMBINATIONS)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("lessons", ["text", longer("captions")])
def test_a_language_model_can_learn_from_less(project, lessons):
    project.run("cadmllm", "pretrain", "language-model", "--from", lessons)
    folder = project.folder / f"pretrained/language_model_{lessons}"
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    knows_cad, seen = any("cad8:" in token["content"] for token in tokens), read_seen(folder)
    if lessons == "text":
        assert knows_cad
        assert seen == read_seen(project.folder / "pretrained/language_model")
    else:
        assert not knows_cad
        assert not seen


@pytest.mark.parametrize("signum", [signal.SIGKILL, longer(signal.SIGTERM)])
def test_killed_pretraining_goes_on_to_the_same_bytes(project, signum):
    before = contents(project.folder / "pretrained/aligned")
    command = ("cadmllm", "pretrain", "shape-encoder")
    output, code = kill_when(project, command, scratch_has(project, "pretrain-shape-encoder/*/state-*"), signum)
    assert code == (130 if signum == signal.SIGTERM else -signal.SIGKILL), output
    assert "resuming after step" in project.run(*command)
    assert contents(project.folder / "pretrained/aligned") == before


def programs(project, split):
    """Hashes of what a split holds."""
    reader = ShardReader(project.folder / "data/corpus", "corpus")
    return {reader.json(row)["program_hash"] for row in reader.rows(split)}


def test_shipped_weights_are_small_and_used_by_the_pipeline(project, tmp_path):
    output = project.call("pretrain", "ship", "--to", str(tmp_path))
    assert output.count(" MB") == 3
    for name in ("shape_encoder", "image_encoder", "language_model"):
        card = (tmp_path / name / "README.md").read_text()
        assert "never seen | clevis, pulley" in card
        assert "| minutes of " in card
        assert read_seen(tmp_path / name) == programs(project, "train")
    check_examples(project, tmp_path / "examples")

    def change(p):
        p["models"]["llm"]["source"] = f"path:{tmp_path}/language_model"
        p["models"]["image_encoder"]["source"] = f"path:{tmp_path}/image_encoder"
        p["models"]["point_cloud_encoder"]["source"] = f"path:{tmp_path}/shape_encoder"
        p["features"]["image"]["pool"] = 2

    rewrite(project, change)
    project.run("cadmllm", "models")
    assert read_seen(project.folder / "models") == programs(project, "train")
    for modality in ("image", "point_cloud"):
        project.run("cadmllm", "features", "--modality", modality)
    assert "top 5" in project.run("cadmllm", "retrieval")
    found = json.loads(project.read("metrics/retrieval.json"))
    assert found["models"] == 24
    assert 0 <= found["shape_to_image"]["top1"] <= found["shape_to_image"]["top5"] <= 1
    p = Params.load(project.folder / "params.yaml")
    model = CadMllmModel(project.folder / "models/llm", p.model, Grammar(8), 0, torch.float32)
    table = model.text_embedding.table.weight
    new = model.tokenizer.get_vocab()["<cad8:NEW>"]
    torch.testing.assert_close(model.vocabulary()["input"][Grammar(8).token("NEW")], table[new])
    assert f"begun: takes {', '.join(COMBINATIONS)}" in project.call("checkpoint", "from-models", "begun")
    begun = load_checkpoint(project.folder / "begun", project.folder / "models/llm")
    for modality, projector in begun.projectors.items():
        shipped = load_file(tmp_path / f"language_model/projectors/{modality}.safetensors")
        assert all(torch.equal(value, shipped[name].float()) for name, value in projector.state_dict().items())
    assert "left alone" in project.call("checkpoint", "from-models", "data", code=1)


def check_examples(project, folder):
    """They are of the test split, each shown in its way; of programs that were seen there are none."""
    corpus, geometry = project.folder / "data/corpus", project.folder / "data/geometry"
    reader, examples = CorpusReader(corpus), read_examples(folder)
    test = {reader.caption(row): reader.json(row) for row in reader.rows("test")}
    assert Counter(each.modality for each in examples) == Counter(SHOWN[: len(reader.rows("test"))])
    assert {each.caption for each in examples} <= test.keys()
    assert held_out(corpus, geometry) == examples
    assert held_out(corpus, geometry, programs(project, "test")) == []
    cloud = next(each for each in examples if each.modality == "point_cloud")
    frame, points = test[cloud.caption]["frame"], np.load(io.BytesIO(cloud.file[1]))
    assert abs(points[:, :3] - frame["centre"]).max() <= frame["scale"] * 1.01


def test_without_the_section_it_says_so(done):
    assert "no section `pretraining`" in done.call("pretrain", "language-model", code=1)


def test_networks_that_were_not_pretrained_together_begin_no_checkpoint(done):
    assert "with no projector for these encoders" in done.call("checkpoint", "from-models", "begun", code=1)
    assert not (done.folder / "begun").exists()
