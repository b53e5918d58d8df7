"""Each path carries information: 32 models learnt by heart from one source alone, and not without it."""

import pytest
import torch
from ruamel.yaml import YAML

from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.log import StageLog
from pipeline.curriculum.plan import Example
from pipeline.curriculum.settings import CurriculumStage
from pipeline.evaluation.evaluator import Evaluator, Measurement, Setting
from pipeline.execution.workers import Workers
from pipeline.model.inputs import collate
from pipeline.planning.params import Params
from pipeline.shards.reader import ShardReader
from pipeline.training.loop import Job, Trainer
from pipeline.training.parallel import Parallel
from tests.func.conftest import make_project

# One process makes the project that these tests share.
pytestmark = [pytest.mark.longer, pytest.mark.xdist_group("learning")]
NUM_MODELS = 32
EPOCHS = {"text": 50, "point_cloud": 50, "image": 100}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A project with the features of some 50 parts, and a small language model."""
    project = make_project(tmp_path_factory.mktemp("learning"))
    yaml = YAML()
    path = project.folder / "params.yaml"
    document = yaml.load(path)
    document["data"]["synthetic"]["num_models"] = 60
    document["data"]["split"] = {"validation": 0.1, "test": 0.1}
    models = document["models"]
    models["llm"]["architecture"].update(
        hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
    )
    models["image_encoder"]["architecture"].update(hidden_size=48, num_hidden_layers=2)
    models["point_cloud_encoder"]["architecture"].update(width=32, num_latents=7)
    document["model"]["lora"].update(r=32, alpha=64, target_modules=LINEAR)
    for projector in document["model"]["projectors"].values():
        projector["hidden"] = 128
    yaml.dump(document, path)
    project.run("dvc", "repro", "models", "features")
    return project.folder


def learn(folder, combination, monkeypatch, scratch, blind=False):
    """Train on 32 models with different captions.

    Returns:
        The shares of tokens, and of whole programs, predicted right; of the programs that are well-formed without the
        grammar, before training, after it, and after it with too little room for the longer half; and the share that
        has room.
    """
    from pipeline.curriculum.place import Place
    from pipeline.training.session import make_model

    monkeypatch.chdir(folder)
    p = Params.load()
    given = {m: f"data/{f'features/{m}' if m in combination else 'corpus'}" for m in ("point_cloud", "image")}
    stage = CurriculumStage(
        init_from="models/llm", **given, modality_sample_probs={combination: 1.0}, epochs=EPOCHS[combination], lr=5e-3,
        train_llm=True, text_embeddings="new", train_projectors=True,
    )  # fmt: skip
    training = p.training.model_copy(
        update={
            "tokens_per_batch": 4096, "batch_size": 8, "validate_every_epochs": 1000, "save_every": 10000,
            "projector_lr_multiplier": 1.0, "vocabulary_lr_multiplier": 1.0, "weight_decay": 0.0,
        }
    )  # fmt: skip
    place = Place("x", 1, stage, {})
    model = make_model(p, place, torch.device("cpu"))
    data = TrainingData(folder / "data/corpus", place.features, "train", model.tokenizer, 64, model.notation)
    first = {data.caption(row): row for row in reversed(range(len(data)))}
    chosen = sorted(first.values())[:NUM_MODELS]
    assert len(chosen) == NUM_MODELS
    data.keep(chosen)
    if blind:
        data.tokenised = lambda rows: [data.instruction] * len(rows)
    lengths = sorted(len(data.program(row)) for row in range(NUM_MODELS))

    def syntax(when, longest):
        budget = {"num_test_models": NUM_MODELS, "max_new_tokens": longest, "batch_size": 16}
        setting = Setting(stage, training, p.evaluation.model_copy(update=budget), p.kernel, 0)
        geometry = ShardReader(folder / "data/geometry", "geometry")
        with Evaluator(model, data, geometry, setting, scratch / when, Workers(1)) as evaluator:
            well_formed = evaluator.results(Measurement("syntax", tuple(evaluator.rows), combination, "free"))
            return sum(well_formed) / len(well_formed)

    before = syntax("before", lengths[-1])
    Trainer(model, silent_job(stage, training, data, scratch)).train()
    after, short = syntax("after", lengths[-1]), syntax("short", lengths[NUM_MODELS // 2])
    assert syntax("before", lengths[-1]) == before  # kept, and not measured again
    ending = sum(length <= lengths[NUM_MODELS // 2] for length in lengths) / NUM_MODELS
    return *predicted(model, data, combination), (before, after, short, ending)


def silent_job(stage, training, data, scratch):
    return Job(
        stage=stage, training=training, train=data, validation=data, seed=0, scratch=scratch,
        parallel=Parallel(training), save_best=lambda *_: None,
        open_log=lambda kept: StageLog(scratch / "log", kept, scratch / "speed", True, lambda _: None),
        show=lambda *_: None, say=lambda _: None,
    )  # fmt: skip


def predicted(model, data, combination):
    """The shares of tokens, and of whole programs, that are the likeliest after what stands before them."""
    model.eval()
    right = total = whole = 0
    for row in range(NUM_MODELS):
        views = (0, 1) if "image" in combination else ()
        batch = collate(data.load([Example(row, combination, views, 0)]), model.num_tokens())
        with torch.no_grad():
            logits = model.causal_lm.get_output_embeddings()(model.hidden(batch))
        hits = logits.argmax(dim=1) == batch.targets
        right, whole = right + int(hits.sum()), whole + int(hits.all())
        total += len(batch.targets)
    return right / total, whole / NUM_MODELS


@pytest.mark.parametrize("combination", ["text", "point_cloud", "image"])
def test_models_are_learnt_by_heart_from_one_source(features, combination, monkeypatch, tmp_path):
    tokens, programs, (before, after, short, ending) = learn(features, combination, monkeypatch, tmp_path)
    assert tokens > 0.99
    assert programs > 0.8
    assert before == 0
    assert after >= programs  # what is right is well-formed, too
    assert short == pytest.approx(ending, abs=1 - programs)


def test_without_any_source_they_are_not(features, monkeypatch, tmp_path):
    # The first tokens give away the rest, so most tokens are right all the same: whole programs are not.
    tokens, programs, _ = learn(features, "text", monkeypatch, tmp_path, blind=True)
    assert tokens < 0.98
    assert programs < 0.2
