"""The user's dataset changes: DVC sees it, whether the dataset is a folder, a zip, or links."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.settings.yaml_files import read_yaml
from pipeline.shards.reader import CorpusReader, ShardReader
from tests.conftest import longer
from tests.func.conftest import Project, make_project

pytestmark = pytest.mark.xdist_group("raw_data")  # one process makes the project that these tests share

RAW = "data/raw/Omni-CAD"
READERS = ("corpus", "geometry", "transfer")


def add_models(folder, number, count=6):
    """A folder of models with their captions."""
    rows = []
    for index in range(count):
        entry = f"{number:04d}/{number:04d}{index:04d}_00001"
        part = synthesis.make_part(number, index, ("washer", "plate"))
        path = folder / f"json/{entry}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(documents.dumps(part.program))
        rows.append({"id": entry, "text caption": f"{part.caption} Number {index}."})
    (folder / "txt").mkdir(exist_ok=True)
    (folder / f"txt/{number:04d}.json").write_text(json.dumps(rows))
    return folder


def change_caption(folder, entry):
    path = folder / f"txt/{entry[:4]}.json"
    rows = json.loads(path.read_text())
    next(row for row in rows if row["id"] == entry)["text caption"] = "Another caption."
    path.write_text(json.dumps(rows))


def add_cloud(folder, entry):
    path = folder / f"pcd/{entry}.npy"
    path.parent.mkdir(parents=True)
    np.save(path, np.random.default_rng(0).normal(size=(400, 6)))


def depend(project, stage, paths):
    """Let a stage of dvc.yaml depend on more."""
    path = project.folder / "dvc.yaml"
    deps = f"  {stage}:\n    cmd: cadmllm {stage}\n    deps: ["
    assert deps in path.read_text()
    path.write_text(path.read_text().replace(deps, deps + "".join(f"{each}, " for each in paths)))


def as_folder(place, made):
    made.rename(place / "Omni-CAD")
    return "data/raw/Omni-CAD", place / "Omni-CAD", lambda: None


def as_link(place, made):
    (place / "Omni-CAD").symlink_to(made)
    return "data/raw/Omni-CAD", made, lambda: None


def as_zip(place, made):
    def pack():
        with zipfile.ZipFile(place / "Omni-CAD.zip", "w") as archive:
            for file in sorted(p for p in made.rglob("*") if p.is_file()):
                archive.write(file, f"Omni-CAD/{file.relative_to(made)}")

    pack()
    return "data/raw/Omni-CAD.zip", made, pack


def as_linked_parts(place, made):
    (place / "Omni-CAD").mkdir()
    for name in ("json", "txt", "pcd"):
        (made / name).mkdir(exist_ok=True)
        (place / "Omni-CAD" / name).symlink_to(made / name)
    return "data/raw/Omni-CAD", made, lambda: None


def captions(project):
    corpus = CorpusReader(project.folder / "data/corpus")
    return {corpus.id(row): corpus.caption(row) for row in corpus.rows()}


def cloud(project, entry):
    reader = ShardReader(project.folder / "data/geometry", "geometry")
    return reader.array(reader.row(entry.replace("/", "")), "points.npy")


@pytest.mark.parametrize("arrange", [as_zip, *map(longer, (as_folder, as_link, as_linked_parts))])
def test_what_changes_in_the_dataset_runs_what_reads_it(tmp_path, arrange):
    project = make_project(tmp_path / "project")
    path, made, changed = arrange(project.folder / "data/raw", add_models(tmp_path / "made", 0))
    project.change("source: synthetic", "source: omnicad")
    project.change("path: data/raw/README.md", f"path: {path}")
    project.change("timeout_s: 6", "timeout_s: 120")  # no model of these is to fail on a busy machine
    if arrange is as_linked_parts:  # DVC looks behind no link inside of a folder; it is said what helps
        said = project.run("dvc", "repro", "corpus")
        assert f"data/raw/Omni-CAD/json -> {made}/json" in said
        assert "to the deps of `corpus` in dvc.yaml" in said
        for stage, names in (("corpus", ("json", "txt")), ("geometry", ("pcd",))):
            depend(project, stage, [made / name for name in names])
    repro = ("dvc", "repro", "geometry")
    assert "DVC sees no change" not in project.run(*repro)
    assert "up to date" in project.run(*repro)
    rows = json.loads((made / "txt/0000.json").read_text())
    first, second = rows[0]["id"], rows[1]["id"]
    drawn = cloud(project, first)

    change_caption(made, second)
    add_cloud(made, first)
    add_models(made, 1)
    changed()
    told = project.run("dvc", "status", "corpus", "geometry")
    assert "corpus:" in told
    assert "geometry:" in told
    project.run(*repro)
    found = captions(project)
    assert len(found) == 12
    assert found[second] == "Another caption."
    assert not np.array_equal(cloud(project, first), drawn)
    assert "up to date" in project.run(*repro)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project whose stages count as done, with a model that has a caption, without any work."""
    project = make_project(tmp_path_factory.mktemp("finished"))
    add_models(project.folder / RAW, 0, count=1)
    project.change("path: data/raw/README.md", f"path: {RAW}")
    stages = read_yaml(project.folder / "dvc.yaml")["stages"]
    for name in READERS:
        outs = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in stages[name]["outs"]]
        for each in (*stages[name]["deps"], *outs):
            path = project.folder / each
            if not path.exists() and "$" not in each:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")
    project.run("dvc", "commit", "-q", "-f", *READERS)
    return project


@pytest.mark.parametrize("change", [change_caption, add_cloud, lambda made, _: add_models(made, 1)])
def test_dvc_sees_each_change(finished, tmp_path, change):
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    project = Project(tmp_path / "copy")
    assert "up to date" in project.run("dvc", "status", *READERS)
    change(project.folder / RAW, "0000/00000000_00001")
    told = project.run("dvc", "status", *READERS)
    assert told.count("modified: ") == told.count("data/raw") == len(READERS)


def test_real_models_are_measured_as_soon_as_they_are_there(copy):
    """The last stage is measured on the dataset, and nothing else runs."""
    assert "transfer.path (data/raw) holds no Omni-CAD" in copy.read("report/index.html").decode()
    assert json.loads(copy.read("metrics/transfer.json")) == {}
    add_models(copy.folder / "data/raw/Omni-CAD", 0, count=8)
    told = copy.run("dvc", "status").splitlines()
    assert "transfer:" in told
    assert "corpus:" not in told
    said = copy.run("dvc", "repro")
    assert [line for line in said.splitlines() if line.startswith("Running")] == [
        "Running stage 'transfer':",
        "Running stage 'report':",
    ]
    counts = json.loads(copy.read("metrics/transfer.json"))["corpus"]
    assert counts["entries"] == 8
    page = copy.read("report/index.html").decode()
    assert f"{counts['accepted']} models of Omni-CAD that nothing was trained on" in page
    assert "up to date" in copy.run("dvc", "repro")
