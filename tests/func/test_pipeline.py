"""The whole pipeline on a handful of models: what it leaves, and what runs again when something changes."""

import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.cad.solids.rendering import Pictures
from pipeline.curriculum.place import find_trained
from pipeline.evaluation import evaluator
from pipeline.evaluation.setup import EvaluateSections, make_evaluator, own_folders
from pipeline.execution.workers import Workers
from pipeline.metrics.summary import stage_summary
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import CorpusReader, ShardReader
from tests.conftest import shared

STAGES = ("stage1_text", "stage2_text_pc", "stage3_all")
LISTENS = ({"text"}, {"text", "point_cloud"}, {"text", "point_cloud", "image"})
SHAPES = {"image": [2, 4, 16], "point_cloud": [4, 16]}


def test_counts_add_up_and_modalities_hold_the_same_keys_in_the_same_order(done):
    data = done.folder / "data"
    counts = Manifest.read(data / "corpus", "corpus").details["counts"]
    assert counts["accepted"] + counts["rejected"] == counts["entries"] == 36
    corpus = CorpusReader(data / "corpus")
    assert len(corpus) == counts["accepted"] == sum(counts["splits"].values())
    readers = {"geometry": ShardReader(data / "geometry", "geometry")}
    for modality in SHAPES:
        readers[modality] = ShardReader(data / "features" / modality, f"features/{modality}")
    for shard in corpus.manifest.shards:
        keys = corpus.keys(shard.name)
        assert keys == [corpus.json(row)["id"].replace("/", "") for row in corpus.rows_of(shard.name)]
        for reader in readers.values():
            assert reader.keys(shard.name) == keys


def test_feature_names_shapes_and_dtypes(done):
    for modality, shape in SHAPES.items():
        reader = ShardReader(done.folder / "data/features" / modality, f"features/{modality}")
        described = {"shape": shape, "dtype": "float16", "encoding": "float16"}
        assert reader.manifest.fields == {f"{modality}.npy": described}
        assert len(reader.manifest.details["encoder"]["sha256"]) == 64
        for shard in reader.manifest.shards:
            for row in reader.rows_of(shard.name):
                array = reader.array(row, f"{modality}.npy")
                assert list(array.shape) == shape
                assert array.dtype == np.float16
                assert np.isfinite(array).all()
    assert "ok" in done.call("verify")
    assert "shards are fine" in done.call("features", "verify")


def test_a_plan_of_what_is_there_is_exact_where_shapes_decide(done):
    document = json.loads(done.call("plan", "--json", "--sample", "4").splitlines()[-1])
    assert list(document["plans"]) == ["36", "453220"]
    stages = {stage["name"]: stage for stage in document["plans"]["36"]}
    for modality in SHAPES:
        tars = (done.folder / "data/features" / modality).glob("*.tar")
        assert stages[f"features@{modality}"]["disk"] == sum(tar.stat().st_size for tar in tars)
    measured = [f"{verb}@{stage}" for verb in ("train", "evaluate") for stage in STAGES] + ["robustness"]
    assert list(stages)[5:] == measured  # there are no real models beside it
    assert all(stage["seconds"] > 0 for name, stage in stages.items() if name != "models")


def test_each_stage_continues_the_one_before(done):
    parents = {}
    for name in STAGES:
        lineage = json.loads(done.read(f"checkpoints/{name}/lineage.json"))
        parents[name] = lineage["inputs_sha256"].get("parent")
        assert set(lineage["inputs_sha256"]) >= {"corpus", "llm"}
    assert parents["stage1_text"] is None
    assert len({parents["stage2_text_pc"], parents["stage3_all"]}) == 2
    config = json.loads(done.read("checkpoints/stage3_all/config.json"))
    assert set(config["features"]) == {"point_cloud", "image"}
    shown = done.call("checkpoint", "show", "checkpoints/stage3_all")
    assert "stage3_all, from checkpoints/stage2_text_pc" in shown
    assert "trained with  torch 2." in shown


def test_what_was_made_says_with_which_libraries(done):
    folders = {"corpus": "cadquery-ocp-novtk", "geometry": "embreex", "features/image": "transformers"}
    for folder, library in folders.items():
        assert library in Manifest.read(done.folder / "data" / folder).details["libraries"]
    assert "torch" not in Manifest.read(done.folder / "data/corpus").details["libraries"]
    models = json.loads(done.read("models/manifest.json"))
    assert all("torch" in entry["libraries"] for entry in models.values())
    assert f"peft {'':17} " in done.read("report/index.html").decode()


def test_metrics_and_plots(done):
    for number, name in enumerate(STAGES):
        evaluation = json.loads(done.read(f"metrics/evaluate/{name}.json"))
        figures = evaluation["combinations"]
        assert len(figures) == (1, 2, 4)[number]
        for found in figures.values():
            assert 0 <= found["valid_rate"] <= 1
            assert found["validation_loss"] > 0
            assert sum(found["reasons"].values()) == round((1 - found["valid_rate"]) * found["num_models"])
        rows = list(csv.DictReader(done.read(f"plots/{name}/train.csv").decode().splitlines()))
        assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
        topology = next(iter(figures.values()))["of_valid"]
        assert {"segment_error", "dangling_edge_length", "self_intersection_ratio"} <= set(topology)
        assert set(evaluation["conditioning"]) == LISTENS[number]
        assert evaluation["syntax"] == {"combination": "text", "well_formed_rate": 0.0}  # a random model knows none
        assert json.loads(done.read(f"metrics/stages/{name}.json")) == stage_summary(evaluation)
    worse = json.loads(done.read("metrics/robustness.json"))
    assert set(worse) == {"noise", "rotation"}
    assert worse["noise"]["0"]["num_models"] == worse["rotation"]["20"]["num_models"] == 2
    summary = json.loads(done.read("metrics/summary.json"))
    assert summary == {**stage_summary(evaluation), "cd": summary["cd"]}
    stages = [f"metrics/stages/{name}.json" for name in STAGES]
    for files, targets in ((["metrics/summary.json"], []), (stages, stages)):
        rows = done.run("dvc", "metrics", "show", *targets).splitlines()
        assert [row.split()[0] for row in rows[1:]] == files
    assert "file://" in done.run("dvc", "plots", "show")


def test_the_report_needs_nothing_else(done):
    page = done.read("report/index.html").decode()
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', page)
    assert links
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    assert "default-src 'none'" in page  # a browser refuses whatever would be fetched
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org|matplotlib\.org)", page)
    assert "Untrained networks" in page
    assert page.count("true model") >= 2
    assert page.count('<td class="text">text</td><td>0%</td>') == len(STAGES)  # well-formed without the grammar
    for name in STAGES:
        assert name in page


def test_a_report_of_an_evaluation_without_other_models_inputs(copy):
    """As preset smollm2 asks for it (`evaluation.conditioning: false`)."""
    for path in (copy.folder / "metrics/evaluate").glob("*.json"):
        figures = json.loads(path.read_text())
        del figures["conditioning"]
        path.unlink()
        path.write_text(json.dumps(figures))
    copy.call("report")
    assert "Does it listen?" not in copy.read("report/index.html").decode()


def test_the_second_time_nothing_runs(done):
    assert "up to date" in done.run("dvc", "repro")
    assert "15 of 15 pipeline stages are done" in done.call("status")


def test_status_answers_while_a_stage_runs(copy):
    """DVC's lock is held by whoever writes; by a process that is there."""
    with subprocess.Popen(["sleep", "600"]) as other:
        held = {str(copy.folder / "data/geometry"): {"pid": other.pid, "cmd": "dvc repro"}}
        (copy.folder / ".dvc/tmp").mkdir(exist_ok=True)
        (copy.folder / ".dvc/tmp/rwlock").write_text(json.dumps({"read": {}, "write": held}))
        told = copy.call("status")
        other.kill()
    assert re.search("^geometry +runs now, or waits", told, re.MULTILINE)
    assert re.search("^corpus +done", told, re.MULTILINE)


def ran(output):
    return re.findall(r"Running stage '([^']+)'", output)


def test_another_learning_rate_runs_its_stage_and_what_follows(copy):
    copy.change("lr: 0.001", "lr: 9e-4", after="stage3_all:")
    assert "train@stage3_all" in copy.call("status")
    copy.leave_inputs_alone()
    later = {"train@stage3_all", "evaluate@stage3_all", "robustness", "transfer", "report"}
    assert set(ran(copy.run("dvc", "repro"))) == later
    copy.change("lr: 9e-4", "lr: 0.001", after="stage3_all:")
    output = copy.run("dvc", "repro", "train@stage3_all", "evaluate@stage3_all")
    assert "Stage 'train@stage3_all' is cached" in output, "what has been trained before is not trained again"
    assert not ran(output)


def test_another_image_encoder_leaves_text_and_points_alone(copy):
    copy.change("image_size: 56", "image_size: 28")
    before = copy.read("data/features/point_cloud/manifest.json"), copy.read("checkpoints/stage2_text_pc/lineage.json")
    output = copy.run("dvc", "repro", "train@stage3_all")
    assert "corpus" not in ran(output)
    assert "features@point_cloud" not in ran(output)
    assert "train@stage1_text" not in ran(output)
    assert "train@stage2_text_pc" not in ran(output)
    assert {"models", "features@image", "train@stage3_all"} <= set(ran(output))
    assert before == (
        copy.read("data/features/point_cloud/manifest.json"),
        copy.read("checkpoints/stage2_text_pc/lineage.json"),
    )


def test_stage_one_needs_no_features(copy):
    import shutil

    shutil.rmtree(copy.folder / "data/features")
    shutil.rmtree(copy.folder / "data/geometry")
    before = copy.read("checkpoints/stage1_text/adapter_model.safetensors")
    copy.call("train", "stage1_text")
    assert copy.read("checkpoints/stage1_text/adapter_model.safetensors") == before


def test_programs_as_text_are_a_parameter(copy):
    copy.change("  vocabulary: cad", "  vocabulary: text")
    copy.call("train", "stage1_text")
    assert load_file(copy.folder / "checkpoints/stage1_text/vocabulary.safetensors") == {}
    copy.call("evaluate", "stage1_text")
    copy.change("  vocabulary: text", "  vocabulary: cad")
    assert "another model.vocabulary" in copy.call("train", "stage2_text_pc", code=1)


def test_generate_writes_files_from_every_input(done, tmp_path):
    points = np.random.default_rng(0).normal(size=(500, 3))
    np.save(tmp_path / "cloud.npy", points)
    picture = next((done.folder / "evaluations/stage3_all").glob("*.true.png"))
    made = tmp_path / "made.step"
    # An untrained network's programs do not all build: of eight candidates one does.
    command = ("generate", "a plate", "--points", str(tmp_path / "cloud.npy"), "--image", str(picture))
    output = done.call(*command, "--candidates", "8", "--temperature", "1", "--max-tokens", "16", "--out", str(made))
    assert "best of eight different candidates" in output
    assert "misfit to the cloud" in output
    assert b"ISO-10303-21" in made.read_bytes()[:100]
    command = ("generate", "a plate", "--image", str(picture), "--candidates", "8", "--temperature", "1")
    command = (*command, "--max-tokens", "16", "--out", str(made))
    before, after = (
        float(re.search(r"misfit to the pictures: ([\d.]+)", done.call(*command, *more))[1])
        for more in ((), ("--builds", "200"))
    )
    assert after < before


def test_a_caption_that_is_cut_is_told(done, tmp_path):
    command = ("generate", "a plate " * 40, "--max-tokens", "24", "--out", str(tmp_path / "made.tokens"))
    assert "the caption has 319 tokens" in done.call(*command)


def test_candidates_of_a_beam_search(done, tmp_path):
    command = ("generate", "a plate", "--max-tokens", "24", "--out", str(tmp_path / "made.tokens"), "--beams", "3")
    assert "best of three different candidates" in done.call(*command, "--candidates", "3")
    assert "as many beams" in done.call(*command, "--candidates", "4", code=1)
    assert "either beams or" in done.call(*command, "--temperature", "1", code=1)


def test_a_cloud_needs_no_caption_but_something_is_needed(done, tmp_path):
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).normal(size=(500, 3)))
    command = ("generate", "--max-tokens", "24", "--out", str(tmp_path / "made.tokens"))
    output = done.call(*command, "--points", str(tmp_path / "cloud.npy"))
    assert "made.tokens: " in output
    assert "never on point_cloud" in output
    assert "never on" not in done.call(*command, "a plate", "--points", str(tmp_path / "cloud.npy"))
    assert "Give a caption" in done.call(*command, code=1)


def json_of(output):
    """The JSON object after the progress lines."""
    return json.loads(output[output.index("{") :])


def test_a_program_can_be_gone_on_from(done, tmp_path):
    start, whole = tmp_path / "start.json", tmp_path / "whole.json"
    start.write_text(documents.dumps(synthesis.make_part(0, 4, ("stepped_shaft",)).program))
    steps = len(documents.loads(start.read_bytes()).extrudes)
    command = ("generate", "a shaft", "--start", str(start), "--out", str(whole), "--max-tokens", "40")
    done.call(*command)
    done.call("generate", "a shaft", "--start", str(start), "--steps", "1", "--out", str(tmp_path / "1.json"))
    found = documents.loads(whole.read_bytes()).extrudes
    assert len(found) >= steps
    given = json_of(done.call("metrics", str(start), str(start), "--json"))
    assert given["metrics"]["volumetric_iou"]["mean"] == pytest.approx(1)
    assert "--steps 99" in done.call(*command, "--steps", "99", code=1)


def test_the_checkpoint_is_a_python_object(done):
    # A script without a main guard: workers must not run it again.
    (done.folder / "script.py").write_text(
        "from pipeline.generation.pretrained import CadMllm\n"
        "model = CadMllm.from_pretrained('checkpoints/stage3_all')\n"
        "found = model.generate(text='a plate', num_candidates=8, temperature=1.0, max_new_tokens=24)\n"
        "print(found[0].is_valid, found[0].program.num_curves, found[0].write('made.stl')['watertight'])\n"
    )
    output = done.run(sys.executable, "script.py")
    assert re.search(r"True \d+ True", output)
    assert (done.folder / "made.stl").stat().st_size > 84


def test_real_models_are_measured_and_only_that(copy):
    folder = shared("omnicad/json").parent
    trained = copy.read("checkpoints/stage3_all/adapter_model.safetensors")
    assert "nothing is measured on real models" in copy.call("transfer")
    assert json.loads(copy.read("metrics/transfer.json")) == {}
    copy.change("path: data/raw ", f"path: {folder} ")
    copy.call("transfer")
    top = {"models": 24, "shape_to_image": {"top5": 0.57}, "image_to_shape": {"top5": 0.42}}  # by encoders with heads
    (copy.folder / "metrics/retrieval.json").write_text(json.dumps(top))
    copy.call("report")
    found = json.loads(copy.read("metrics/summary.json"))
    real = json.loads(copy.read("metrics/transfer.json"))
    assert found["real"]["iou"] == stage_summary(real)["iou"]["all"]
    assert real["retention_text"] > 0
    page = copy.read("report/index.html").decode()
    assert "Real models" in page
    assert page.count("Program from text + points<") == min(9, len(real_lines(copy, "text+point_cloud")))
    assert all("cloud" in line and "frame" in line for line in real_lines(copy, "text"))
    assert not any("cloud" in line for line in real_lines(copy, "text+point_cloud"))
    assert "a cloud finds its own pictures among the first five in 57%, pictures their cloud in 42%" in page
    assert copy.read("checkpoints/stage3_all/adapter_model.safetensors") == trained
    assert not list((copy.folder / "scratch").glob("transfer*/[!.]*"))


def test_search_improves_what_a_cloud_is_shown_for_and_that_alone(copy):
    command, figures = ("cadmllm", "evaluate", "stage2_text_pc"), "metrics/evaluate/stage2_text_pc.json"
    before = json.loads(copy.read(figures))
    copy.change("search_builds: 0", "search_builds: 200")
    copy.run(*command)
    after = json.loads(copy.read(figures))
    ious = [found["combinations"]["text+point_cloud"]["metrics"]["volumetric_iou"] for found in (before, after)]
    assert ious[1]["mean"] > ious[0]["mean"] + 0.2
    assert after["combinations"]["text"] == before["combinations"]["text"]
    assert after.get("completion") == before.get("completion")


def test_candidates_are_compared_with_the_pictures_that_are_shown_where_there_is_no_cloud(done, monkeypatch, tmp_path):
    monkeypatch.chdir(done.folder)
    p, place = EvaluateSections.load(), find_trained(EvaluateSections.load().curriculum, "stage3_all")
    assert p.evaluation.num_candidates == 2
    p = p.model_copy(update={"kernel": p.kernel.model_copy(update={"timeout_s": 60})})
    limits = p.evaluation.model_copy(update={"num_test_models": 4})
    made, _ = make_evaluator(p, place, tmp_path, limits, own_folders(place), Workers(1))
    with made:
        programs = {row: made.test.program(row).tolist() for row in made.rows}
        wrong = dict(zip(made.rows, [*made.rows[1:], made.rows[0]], strict=True))
        written = {row: [programs[wrong[row]], programs[row]] for row in made.rows}

        def chosen(cases):
            ways = iter((0, 1))  # the greedy one is wrong

            def generate(model, prompts, way):
                number = next(ways)
                return [[written[case.row][number]] for case in cases]

            monkeypatch.setattr(evaluator, "generate_tokens", generate)
            monkeypatch.setattr(evaluator, "score", lambda model, prompt, own: [0.0, -1.0])
            return [list(tokens) for tokens in made._generate(cases, 0)]

        true = [programs[row] for row in made.rows]
        for combination in ("image", "text+image", "text+point_cloud+image"):
            assert chosen(made.cases.shown(combination, made.rows)) == true, combination
        swapped = [programs[wrong[row]] for row in made.rows]
        assert chosen(made.cases.shown("text", made.rows)) == swapped  # the likeliest
        assert chosen(made.cases.swapped("text+image", "image", made.rows)) == swapped
        assert chosen(made.cases.swapped("text+image", "text", made.rows)) == true
        for case in (*made.cases.shown("point_cloud+image", made.rows), *made.cases.completions("image", made.rows)):
            assert case.pictures is None
        made.cases.views = dict.fromkeys(made.rows, (1,))
        stored = made.geometry.bytes(made.cases.drawn[made.rows[0]], "view1.png")
        shown = Pictures.of([Image.open(io.BytesIO(stored))], 2, (1,))
        assert shown.views == (7,), "the second of two views is from the corner that faces the first one's"
        assert made.cases.shown("image", made.rows)[0].pictures.source == shown.source
        made.cases.num_candidates = 1
        assert made.cases.shown("image", made.rows)[0].pictures is None, "nothing to choose from: nothing is read"


def real_lines(project, combination):
    lines = map(json.loads, project.read("evaluations/transfer/generated.jsonl").splitlines())
    return [line for line in lines if line["combination"] == combination]


def test_metrics_of_files_and_folders(done, tmp_path):
    for number, name in enumerate(("plate", "washer", "link")):
        for side in ("true", "predicted"):
            (tmp_path / side).mkdir(exist_ok=True)
            part = synthesis.make_part(0, number if side == "true" else 9, (name,))
            (tmp_path / side / f"{name}.json").write_text(documents.dumps(part.program))
    step, stl = tmp_path / "plate.step", tmp_path / "plate.stl"
    for target in (step, stl):
        done.call("cad", "convert", str(tmp_path / "true/plate.json"), str(target))
    same = done.call("metrics", str(step), str(tmp_path / "true/plate.json"))
    assert re.search(r"volumetric_iou +(1|0\.9999)", same)
    assert re.search(r"segment_error +0", same)
    aligned = json_of(done.call("metrics", str(stl), str(step), "--align", "--json"))
    assert aligned["metrics"]["volumetric_iou"]["mean"] > 0.99
    folders = str(tmp_path / "predicted"), str(tmp_path / "true")
    assert "3 pairs, 100.0% build" in done.call("metrics", *folders)
    (tmp_path / "predicted/link.json").unlink()
    (tmp_path / "predicted/washer.json").write_text("{}")
    output = done.call("metrics", *folders, code=1)
    assert "link: missing" in output
    assert "washer: malformed_model" in output
    assert "33.3% build" in output
    (tmp_path / "true/plate.json").write_text("{}")
    assert "a true file, cannot be used" in done.call("metrics", *folders, code=1)
