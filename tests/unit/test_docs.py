"""The documentation: nothing is missing in what is made from the code, and what is written by hand is true."""

import ast
import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from pipeline.planning import presets
from pipeline.settings.yaml_files import read_yaml
from stages.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@cache
def reference():
    spec = importlib.util.spec_from_file_location("docs_reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def texts():
    """Pages by path, those that are made among them."""
    made = {DOCS / name: make() for name, make in reference().GENERATED.items()}
    return {page: page.read_text() for page in PAGES} | made


@cache
def anchors(page):
    """Of a page's headings, as MkDocs and GitHub make them."""
    text = FENCE.sub("", texts()[page])
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def blocks(language):
    return [(page.name, body) for page in PAGES for kind, body in FENCE.findall(page.read_text()) if kind == language]


# -- what is made ------------------------------------------------------------------------------------------------------


def test_every_command_and_option_is_in_the_reference():
    page = reference().commands_page()
    sections = dict(part.split("\n", 1) for part in re.split(r"^##+ ", page, flags=re.MULTILINE)[1:])
    known = [*reference().commands()]
    assert len(known) > 30
    for path, command in known:
        section = sections[" ".join(path)]
        assert command.help.strip().split("\n")[0] in section
        for param in command.params:
            names = [name for name in (*param.opts, *param.secondary_opts) if name.startswith("--")]
            assert all(f"`{name}`" in section for name in names), path


def test_every_parameter_is_in_the_reference():
    page = reference().parameters_page()
    named = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)) | set(
        re.findall(r"^## (\w+)$", page, re.MULTILINE)
    )
    for name in (presets.BASE, "pretraining", "reinforced"):
        document = read_yaml(ROOT / "presets" / f"{name}.yaml")
        for key in presets.flatten(document):
            given = re.sub(r"^curriculum\.\w+", "curriculum.<stage>", key)
            assert any(given == each or given.startswith(f"{each}.") for each in named), key
    assert [key for key, _, meaning in reference().parameters() if not meaning] == []
    assert {*reference().MEANINGS} <= {key for key, _, _ in reference().parameters()}


# -- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text())
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() or target in texts(), link
        assert not anchor or target not in texts() or anchor in anchors(target), link


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"^ +- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(
        {page.name for page in texts() if page.parent == DOCS} | {"CHANGELOG.md", "SECURITY.md"}
    )


def mistake(line):
    """What is wrong with a command line of ours; None where nothing is."""
    words = shlex.split(line, comments=True)
    words = words[words.index("cadmllm") + 1 :]
    end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";", ">", "2>", "&", "||")), len(words))
    words, command = words[:end], get_command(app)
    for switch in ("-q", "--quiet", "-v", "--verbose"):  # before the command
        words = words[1:] if words[:1] == [switch] else words
    while hasattr(command, "commands") and words and words[0] in command.list_commands(None):
        command = command.get_command(None, words.pop(0))
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        return f"no command {words[0]}"
    options = {name: each for each in command.params for name in (*each.opts, *each.secondary_opts)}
    given = 0
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            given += 1
        elif word.partition("=")[0] not in (*options, "--help", "-h"):
            return f"no option {word}"
        elif "=" not in word and word in options and options[word].type_descriptor.annotation is not bool and not words:
            return f"{word} without its value"
        elif "=" not in word and word in options and options[word].type_descriptor.annotation is not bool:
            words.pop(0)
    arguments = [each for each in command.params if not each.opts[0].startswith("-")]
    if given > len(arguments) and all(each.nargs == 1 for each in arguments):
        return f"{given} arguments"
    return None


def test_command_lines_name_commands_and_options_that_exist():
    lines = [
        (page, line)
        for page, body in blocks("bash")
        for line in body.replace("\\\n", " ").splitlines()
        if re.search(r"(^|\s)cadmllm\s", line.partition("#")[0])
    ]
    assert len(lines) > 40
    assert {(page, line): found for page, line in lines if (found := mistake(line))} == {}


def test_commands_in_sentences_exist():
    """``cadmllm train STAGE`` and the like."""
    said = {
        (page.name, each)
        for page in PAGES
        for each in re.findall(r"`(cadmllm [^`]+)`", FENCE.sub("", page.read_text()))
        if "…" not in each and each != "cadmllm …"
    }
    assert len(said) > 20
    assert {each: found for each in said if (found := mistake(each[1].replace("'", "")))} == {}


@pytest.mark.parametrize(
    "wrong", ["cadmllm trian x", "cadmllm train a b", "cadmllm plan --modells 3", "cadmllm plan --models"]
)
def test_mistakes_are_found(wrong):
    assert mistake(wrong)


def test_presets_that_are_named_exist():
    used = {name for _, body in blocks("bash") for name in re.findall(r"preset (?:use|show) ([\w-]+)", body)}
    assert {*used} <= {path.stem for path in (ROOT / "presets").glob("*.yaml")}
    assert used
    table = (DOCS / "presets.md").read_text()
    assert [path.stem for path in (ROOT / "presets").glob("*.yaml") if f"| `{path.stem}` |" not in table] == []


def test_python_compiles():
    found = blocks("python")
    assert found
    for page, body in found:
        compile(body, page, "exec")


def test_lines_are_120_wide_at_most():
    wide = {
        (page.name, line)
        for page in PAGES
        for line in page.read_text().splitlines()
        if len(line) > 120 and not line.startswith(("|", "!", "["))
    }
    assert wide == set()


# -- messages ----------------------------------------------------------------------------------------------------------


def raised():
    """Calls of ``UserError`` and its kinds, ``RejectError`` and ``BusyError`` in the code, with their files."""
    for folder in ("pipeline", "stages"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    yield path, node.func.id, node.args


def pieces(text):
    """What a message always says, in pieces between what differs."""
    if isinstance(text, ast.JoinedStr):
        return [each.value for each in text.values if isinstance(each, ast.Constant)]
    if isinstance(text, ast.BinOp):
        return [*pieces(text.left), *pieces(text.right)]
    return [text.value] if isinstance(text, ast.Constant) and isinstance(text.value, str) else []


def test_every_mistake_of_a_user_is_in_troubleshooting():
    page = " ".join((DOCS / "troubleshooting.md").read_text().replace("`", "").replace("\\|", "|").split())
    missing = []
    for path, kind, args in raised():
        if kind in ("UserError", "StoreError", "BusyError") and args:
            longest = max(pieces(args[0]), key=len, default="").strip(")\n ")
            said = " ".join(longest.replace("`", "").split()).strip(" :;,.(")
            if len(said) > 3 and said not in page:
                missing.append((path.relative_to(ROOT).as_posix(), said))
    assert missing == []


def test_every_reason_of_a_reject_is_in_troubleshooting():
    page = (DOCS / "troubleshooting.md").read_text()
    reasons = set()
    for _, kind, args in raised():
        position = {"RejectError": 0, "Failure": 0, "Reject": 2}.get(kind)
        if position is not None and len(args) > position:
            choices = args[position]
            either = [choices.body, choices.orelse] if isinstance(choices, ast.IfExp) else [choices]
            reasons |= {each.value for each in either if isinstance(each, ast.Constant)}
    assert len(reasons) > 40
    assert [each for each in sorted(reasons) if f"`{each}`" not in page] == []
