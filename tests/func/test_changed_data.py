"""Killed, and started again on other data: every model that is there now exactly once, as if nothing had been."""

import contextlib
import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.curriculum.place import find_stage
from pipeline.evaluation.setup import measuring
from pipeline.planning.params import Params
from pipeline.shards.manifest import Manifest, read_rejects
from pipeline.shards.reader import ShardReader
from tests.conftest import longer, shared
from tests.func.conftest import make_project
from tests.func.test_interruption import contents, has_records, kill_when, scratch_has

pytestmark = pytest.mark.xdist_group("changed_data")  # one process makes the project that these tests share

RAW = "data/raw/Omni-CAD"
COUNT = 30  # several shards
MORE = range(100, 150)  # with these, the corpus stage is still at work when it is killed
STAGES = {  # the command, its out, and what is in scratch once a first unit is finished
    "corpus": (("corpus",), "data/corpus", "corpus/*/records.sqlite"),
    "geometry": (("geometry",), "data/geometry", "geometry/*/*.done.json"),
    "features": (
        ("features", "--modality", "point_cloud"),
        "data/features/point_cloud",
        "features-point_cloud/*/*.done.json",
    ),
    "train": (("train", "stage2_text_pc"), "checkpoints/stage2_text_pc", "train-stage2_text_pc/*/state-*"),
}


class Raw:
    """A small Omni-CAD in a project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, number: int, seed: int = 0, caption: str = "") -> None:
        """Write a model and its caption, in place of what it was."""
        part = synthesis.make_part(seed, number, ("washer", "plate", "l_bracket"))
        entry = self.id(number)
        path = self.folder / f"json/{entry}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(documents.dumps(part.program))
        self._caption({**self.captions(), entry: caption or part.caption})

    def remove(self, number: int) -> None:
        """Take a model and its caption away."""
        (self.folder / f"json/{self.id(number)}.json").unlink()
        captions = self.captions()
        del captions[self.id(number)]
        self._caption(captions)

    def put_cloud(self, number: int, seed: int) -> None:
        """A cloud of the user's own."""
        path = self.folder / f"pcd/{self.id(number)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(seed).normal(size=(300, 6)))

    def captions(self) -> dict[str, str]:
        path = self.folder / "txt/0000.json"
        return {row["id"]: row["text caption"] for row in json.loads(path.read_text())} if path.exists() else {}

    def _caption(self, captions: dict[str, str]) -> None:
        (self.folder / "txt").mkdir(exist_ok=True)
        rows = [{"id": entry, "text caption": text} for entry, text in captions.items()]
        (self.folder / "txt/0000.json").write_text(json.dumps(rows))

    def keys(self) -> list[str]:
        """What each model is called in shards."""
        return [path.parent.name + path.stem for path in self.folder.glob("json/*/*.json")]

    @staticmethod
    def id(number: int) -> str:
        return f"0000/{number:08d}_00001"


CHANGES = {
    "added": lambda raw: [raw.put(number) for number in (5, 17, COUNT + 3)],
    "removed": lambda raw: [raw.remove(number) for number in (2, 16, COUNT - 1)],
    "changed": lambda raw: raw.put(16, seed=1),
    "caption changed": lambda raw: raw.put(16, caption="Generate a CAD model of another kind."),
    "cloud changed": lambda raw: raw.put_cloud(16, seed=1),
}
EXPERIMENTS = [
    ("corpus", "added"),
    *(longer("corpus", change) for change in ("removed", "changed", "caption changed")),
    *(longer("geometry", change) for change in ("added", "removed", "changed", "cloud changed")),
    *(longer("features", change) for change in ("added", "removed", "changed")),
    ("train", "changed"),
    *(longer("train", change) for change in ("added", "removed")),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a dataset, and all that its second curriculum stage needs."""
    made = make_project(tmp_path_factory.mktemp("changed"))
    made.change("source: synthetic", "source: omnicad")
    made.change("path: data/raw/README.md", f"path: {RAW}")
    made.change("timeout_s: 6", "timeout_s: 120")  # no model of these is to fail on a busy machine
    raw = Raw(made.folder / RAW)
    for number in range(COUNT):
        if number not in (5, 17):
            raw.put(number)
    raw.put_cloud(16, seed=0)
    for command in (("models",), *(STAGES[name][0] for name in ("corpus", "geometry", "features"))):
        made.call(*command)
    made.call("train", "stage1_text")
    return made


@pytest.mark.parametrize(("stage", "change"), EXPERIMENTS)
def test_what_was_killed_goes_on_with_the_data_as_they_are_now(project, tmp_path, stage, change):
    copy = project.copied(tmp_path / "copy")
    raw, (command, out, unit) = Raw(copy.folder / RAW), STAGES[stage]
    for number in MORE if stage == "corpus" else ():
        raw.put(number)
    shutil.rmtree(copy.folder / out, ignore_errors=True)
    has_unit = has_records if stage == "corpus" else scratch_has
    kill_when(copy, ("cadmllm", *command), has_unit(copy, unit), signal.SIGKILL)
    CHANGES[change](raw)
    before = list(STAGES)[: list(STAGES).index(stage)]
    for name in before:
        copy.call(*STAGES[name][0])
    output = copy.call(*command)
    went_on = contents(copy.folder / out)
    left = [path.name for path in (copy.folder / "scratch" / unit.partition("/")[0]).glob("[!.]*")]
    assert len(left) == (stage == "train"), "it went on in the folder that was there; training begins anew in another"
    shutil.rmtree(copy.folder / "scratch")
    shutil.rmtree(copy.folder / out)
    copy.call(*command)
    assert contents(copy.folder / out) == went_on
    if stage == "train":
        assert "resuming" not in output
    due = raw.keys()
    for name in before if stage == "train" else (*before, stage):
        samples, rejects = contained(copy.folder / STAGES[name][1])
        assert Counter(samples + rejects) == Counter(due), name
        due = samples


def contained(folder):
    """Keys of the samples and of the rejects that a stage wrote."""
    found = ShardReader(folder, Manifest.read(folder).kind)
    samples = [key for shard in found.manifest.shards for key in found.keys(shard.name)]
    return samples, [reject.id.replace("/", "") for reject in read_rejects(folder)]


@pytest.mark.longer
def test_forty_real_models_are_added_after_a_kill(project, tmp_path):
    source = shared("omnicad")
    copy = project.copied(tmp_path / "copy")
    shutil.rmtree(copy.folder / RAW)
    shutil.copytree(source, copy.folder / RAW)
    models = sorted((copy.folder / RAW).glob("json/*/*.json"))
    assert len(models) == 134
    later = np.random.default_rng(0).choice(models, 40, replace=False)
    for path in later:
        path.rename(tmp_path / path.name)
    kill_when(copy, ("cadmllm", "corpus"), has_records(copy, STAGES["corpus"][2]), signal.SIGKILL)
    for path in later:
        (tmp_path / path.name).rename(path)
    copy.call("corpus")
    samples, rejects = contained(copy.folder / "data/corpus")
    assert Counter(samples + rejects) == Counter(path.parent.name + path.stem for path in models)


@pytest.mark.parametrize(
    "changed",
    [
        "data/corpus/manifest.json",
        "data/geometry/manifest.json",
        "data/features/point_cloud/manifest.json",
        "models/llm/config.json",
        "checkpoints/stage1_text/config.json",
        "checkpoints/stage2_text_pc/config.json",
    ],
)
def test_half_an_evaluation_is_used_for_the_same_inputs_alone(project, tmp_path, changed):
    for name in ("data", "models", "checkpoints", "params.yaml"):
        place = project.folder / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, tmp_path / name)
    path = tmp_path / changed
    if not path.exists():
        path.parent.mkdir()
        path.write_text("{}")

    def scratch():
        p = Params.load()
        sections = {"evaluation": p.evaluation}
        with measuring(
            "evaluation", p, find_stage(p.curriculum, "stage2_text_pc"), "stages.evaluate", sections
        ) as folder:
            return folder

    with contextlib.chdir(tmp_path):
        before = scratch()
        assert scratch() == before
        path.write_text(path.read_text() + "\n")
        assert scratch() != before
