"""What the code never calls, by its syntax trees: pickles, evaluated text, shells, code that comes with a model."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "os.system",
    "os.popen",
    "torch.jit.load",
    "torch.hub.load",
    "runpy.run_path",
    "tarfile.TarFile.extractall",
}
METHODS = {"extractall", "extract", "unpack_archive", "read_pickle"}  # of any object
# What must be said in a call, and with which value.
REQUIRED = {
    "np.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
    "tarfile.extract": ("filter", "data"),
}
LOADS_WEIGHTS = ("AutoModel", "AutoModelForCausalLM")


def dotted(node):
    """``os.system`` of such a node; nothing of a node that is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call, name):
    return next(
        (each.value.value for each in call.keywords if each.arg == name and isinstance(each.value, ast.Constant)), None
    )


def faults(text):
    """What a source has that no source should."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        last = name.rpartition(".")[2]
        if name in CALLS | ATTRIBUTES or (last in METHODS and name != "pickles.read_pickle" and "." in name):
            yield f"calls {name}"
        if name in REQUIRED and keyword(node, REQUIRED[name][0]) is not REQUIRED[name][1]:
            yield f"{name} without {REQUIRED[name][0]}={REQUIRED[name][1]}"
        if keyword(node, "shell"):
            yield f"{name} with a shell"
        if (
            keyword(node, "allow_pickle")
            or keyword(node, "trust_remote_code")
            or keyword(node, "weights_only") is False
        ):
            yield f"{name} trusts what it reads"
        if last == "from_pretrained" and name.startswith("Auto") and keyword(node, "trust_remote_code") is not False:
            yield f"{name} without trust_remote_code=False"
        if last == "open" and name == "Image.open" and not any(each.arg == "formats" for each in node.keywords):
            yield "Image.open of any format: some start programs"


def sources(*folders):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def test_nothing_that_is_read_is_unpickled_or_run():
    found = [(file, fault) for file, text in sources("pipeline", "stages") for fault in faults(text)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval(x)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "subprocess.run(x, shell=True)",
        "AutoModel.from_pretrained(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(x, **keywords)",
        "tar.extractall(folder)",
        "Image.open(x)",
        "os.system(x)",
    ],
)
def test_each_of_them_would_be_found(text):
    assert list(faults(text))


def test_weights_are_read_from_safetensors_or_gguf():
    """transformers would open ``pytorch_model.bin`` where a folder has no other."""
    loose = [
        f"{file}:{node.lineno}"
        for file, text in sources("pipeline", "stages")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and dotted(node.func) in {f"{kind}.from_pretrained" for kind in LOADS_WEIGHTS}
        and keyword(node, "use_safetensors") is not True
        and "**weights" not in ast.unparse(node)  # of resolve.py, which says why
    ]
    assert loose == []


def test_templates_escape_what_they_show():
    """Only what the code itself makes is marked as safe, and no script writes HTML."""
    pages = [*ROOT.glob("pipeline/**/*.js"), *ROOT.glob("pipeline/**/*.html"), *ROOT.glob("pipeline/**/*.j2")]
    assert len(pages) > 4
    writers = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function")
    assert [(page.name, writer) for page in pages for writer in writers if writer in page.read_text()] == []
    template = (ROOT / "pipeline/report/report.html.j2").read_text()
    marked = {line.split("{{")[1].split("|")[0].strip() for line in template.splitlines() if "| safe" in line}
    assert marked == {"train_chart", "validation_chart", "reward_chart", "robustness_chart", "meshes", "viewer"}
