"""What DVC asks for after edits, and the documentation's way to keep results that an edit does not change."""

import json
import re

from tests.func.conftest import ROOT
from tests.unit.test_repeats import REPEATED, line_of


def edit(folder, line):
    """Add a comment to a file of a line of the table; its name."""
    files = [folder / line] if (folder / line).is_file() else sorted((folder / line).rglob("*"))
    texts = (path for path in files if path.suffix in (".py", ".md"))
    path = next(path for path in texts if line_of(path.relative_to(folder).as_posix()) == line)
    path.write_text(f"{path.read_text()}# A comment.\n")
    return path.relative_to(folder).as_posix()


def asked_for(project):
    """By stage of DVC, the deps that have changed; nothing else has."""
    found = json.loads(project.run("dvc", "status", "--json", "dvc.yaml"))
    for reasons in found.values():
        assert [list(each) for each in reasons] == [["changed deps"]]
        assert set(reasons[0]["changed deps"].values()) == {"modified"}
    return {stage: set(reasons[0]["changed deps"]) for stage, reasons in found.items()}


def commands(heading):
    """Of the first block of commands below a heading of docs/pipeline.md."""
    page = (ROOT / "docs/pipeline.md").read_text()
    block = page.partition(f"## {heading}\n")[2].partition("```bash\n")[2].partition("```")[0]
    return [line.partition("#")[0].split() for line in block.splitlines()]


def test_edits_ask_for_their_stages_and_results_can_be_kept(copy):
    edited = {line: edit(copy.folder, line) for line in REPEATED}
    asked = asked_for(copy)
    for line, file in edited.items():
        runs = {stage for stage, deps in asked.items() if any(f"{file}/".startswith(f"{dep}/") for dep in deps)}
        expected = {stage for stage, mark in REPEATED[line].items() if mark == "x"}
        assert {stage.partition("@")[0] for stage in runs} == expected, file
    status, commit, repro, save = commands("When code or a library changes")
    reasons = "; ".join(re.findall("would run: (.*)", copy.call(*status[1:]))).split("; ")
    assert [
        each for each in reasons if not re.fullmatch(r"input (pipeline|stages)/\S+ changed|and \d+ more", each)
    ] == []
    copy.run(*commit)
    assert "up to date" in copy.run(*repro)
    assert save[:2] == ["git", "commit"]
    assert edit(copy.folder, "pipeline/report")
    assert asked_for(copy) == {"report": {"pipeline/report"}}
    assert "Running stage 'report'" in copy.run("dvc", "repro", "--dry")


def test_results_of_stages_that_are_named_can_be_kept(copy):
    """Where parameters have changed as well."""
    edit(copy.folder, "pipeline/generation")
    copy.change("noise: [0.02]", "noise: [0.03]")
    told = copy.call("status")
    assert re.search(
        "^robustness .*would run: input robustness changed; input pipeline/generation changed$", told, re.MULTILINE
    )
    copy.run("dvc", "commit", "-f", "evaluate", "transfer")
    assert {stage.partition("@")[0] for stage in json.loads(copy.run("dvc", "status", "--json", "dvc.yaml"))} == {
        "robustness",
        "report",
    }
