"""Plans: exact where shapes decide, measured where models do."""

import itertools
import json

import numpy as np
import pytest
import torch

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.planning import presets
from pipeline.planning.measure import Rates, measure
from pipeline.planning.params import Params
from pipeline.planning.plan import alternatives, plan
from pipeline.planning.sizes import (
    dinov2_sizes,
    feature_bytes,
    image_shape,
    llm_sizes,
    points_shape,
    shard_counts,
    shards_bytes,
)
from pipeline.runtime.errors import UserError
from pipeline.settings import yaml_files
from pipeline.shards import embeddings
from pipeline.shards.writer import write_shard
from pipeline.weights.settings import Model

RATES = Rates(0.05, 0.1, (6000, 1024), 3000, 60, 30, 1.0, 0.3, 0.1, 1e11, 32, 134)


@pytest.mark.parametrize("dtype", embeddings.DTYPES)
@pytest.mark.parametrize(("shape", "number"), [((8, 4, 192), 7), ((16, 192), 31), ((2, 1, 16), 1)])
def test_the_size_of_feature_shards_is_exact(tmp_path, dtype, shape, number):
    tokens = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    samples = ((f"0000{i:08d}_00001", embeddings.members("image.npy", tokens, dtype)) for i in range(number))
    written = write_shard(tmp_path / "train-000000.tar", samples)
    assert shards_bytes(feature_bytes(shape, dtype), [number]) == written.bytes


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_can_be_planned(name):
    p = Params.parse(yaml_files.plain(presets.compose(name)), name)
    counts = shard_counts(p, 1000)
    assert sum(counts) == 1000
    assert max(counts) <= p.data.shard_size
    needs = plan(p, 1000, RATES, 2)
    worse = ["robustness"] if any(p.robustness.model_dump().values()) else []
    trained, measured = ([f"{verb}@{stage}" for stage in p.curriculum] for verb in ("train", "evaluate"))
    assert [each.name for each in needs][5:] == [*trained, *measured, *worse, "transfer"]
    assert all(each.disk > 0 and each.memory > 0 for each in needs)
    training = [each for each in needs if each.name.startswith("train@")]
    shown = [stage.encoded for stage in p.curriculum.values()]
    for (before, seen), (after, now) in itertools.pairwise(zip(training, shown, strict=True)):  # less, more, most
        assert (before.memory < after.memory) == (before.absent < after.absent) == (seen != now)
        assert before.memory <= after.memory
    features = next(each for each in needs if each.name == "features@image")
    same = f"{p.geometry.num_views} views, pool {p.features.image.pool}, float16"
    listed = {name: disk for name, disk, _ in alternatives(p, 1000, RATES)}
    assert listed[same] == features.disk


def test_shapes_follow_the_settings():
    p = Params.parse(yaml_files.plain(presets.compose("single-gpu")), "single-gpu")
    assert image_shape(p) == (8, 16, 768)
    assert image_shape(p, pool=16, views=2) == (2, 1, 768)
    assert points_shape(p) == (257, 768)
    assert llm_sizes(p.models.llm).parameters == 494e6


@pytest.mark.parametrize("spoiled", ["no model", "each caption", "each program", "each cloud"])
def test_a_dataset_of_which_nothing_can_be_used_is_told(tmp_path, spoiled):
    p = Params.parse(yaml_files.plain(presets.compose("smoke")), "smoke")
    source = tmp_path / "Omni-CAD"
    for folder in ("json/0000", "txt", "pcd/0000"):
        (source / folder).mkdir(parents=True)
    rows = []
    for number in range(0 if spoiled == "no model" else 2):
        entry, part = f"0000/{number:08d}_00001", synthesis.make_part(0, number, ("washer",))
        rows.append({"id": entry, "text caption": "" if spoiled == "each caption" else part.caption})
        text = "{}" if spoiled == "each program" else documents.dumps(part.program)
        (source / f"json/{entry}.json").write_text(text)
        if spoiled == "each cloud":
            (source / f"pcd/{entry}.npy").write_bytes(b"junk")
    (source / "txt/0000.json").write_text(json.dumps(rows))
    changed = p.model_copy(update={"data": p.data.model_copy(update={"source": "omnicad", "path": str(source)})})
    verb = "drawn" if spoiled == "each cloud" else "used"
    tried = 2 if spoiled in ("each program", "each cloud") else 0
    with pytest.raises(UserError, match=rf"no model of {source} can be {verb}, of {tried} tried; `cadmllm"):
        measure(changed, tmp_path, 2, 1, torch.device("cpu"), lambda _: None)


def test_what_is_not_known_is_told():
    with pytest.raises(UserError, match="size of hub:someone/something is not known"):
        dinov2_sizes(Model(source="hub:someone/something"))
