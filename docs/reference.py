"""The pages of the site that are made from the code: every command, and every parameter of params.yaml.

A hook of MkDocs (``mkdocs.yml``): ``on_files`` adds the pages. What they say comes from Typer's objects, from the
schema of the parameters and from the comments of the default preset, so that they cannot tell of what is not there.
"""

import json
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from typer.main import get_command

from pipeline.planning.params import Params
from pipeline.settings.yaml_files import read_yaml
from stages.cli import COMMANDS, app

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PRESETS = ROOT / "presets"
DEFAULT = PRESETS / "quickstart.yaml"
# Outside of docs/, and part of the site all the same: its pages link to them as readers of the repository do.
OUTSIDE = (
    "CHANGELOG.md",
    "SECURITY.md",
    "studies/curriculum/plot.svg",
    "studies/curriculum/table.md",
    "studies/order/plot.svg",
    "studies/order/table.md",
)
COMMENT = re.compile(r"^(?P<indent> *)(?P<key>[\w+]+):(?P<value>[^#]*?)(?: +# (?P<comment>.*))?$")
CHOICES = re.compile(r"[\w-]+( \| [\w-]+)+")  # a comment that says what the column `takes` says
NUMBERS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


# Of what has neither a description nor a comment.
MEANINGS = {
    "seed": "of everything that is random; training.seed may be another",
    "curriculum": "The stages, by name, in the order of training.",
    "data.source": "synthetic: parts that the project makes; omnicad: the dataset at data.path",
    "data.split.validation": "share of the base models",
    "data.split.test": "share of the base models",
    "kernel.timeout_s": "seconds that one model may take in the CAD kernel",
    "kernel.memory_mib": "MiB that one model may take there",
    "geometry.num_views": "shaded views of each solid",
    "features.point_cloud.tokens": "all: the global token and the latents; latents, or global, alone",
    "features.point_cloud.dtype": "of the stored embeddings; int8 has a scale for each token",
    "model.lora.r": "rank",
    "model.lora.alpha": "scale: the adapter's output is multiplied by alpha / r",
    "model.lora.dropout": "share of the adapter's inputs left out in training",
    "model.lora.target_modules": "layers of the language model that have an adapter",
    "model.projectors.point_cloud.hidden": "width of the hidden layer",
    "model.projectors.image.hidden": "width of the hidden layer",
    "training.projector_lr_multiplier": "the projectors' learning rate, over the stage's lr",
    "training.schedule": "how the learning rate decays after its warm-up",
    "training.warmup_fraction": "share of a stage's steps in which the rate rises",
    "training.weight_decay": "of AdamW",
    "training.max_grad_norm": "longer gradients are scaled down to it",
    "training.max_validation_samples": "validation models that the loss is measured on",
    "curriculum.<stage>.modality_sample_probs": "how often a sample shows which combination; they add up to 1",
    "curriculum.<stage>.lr": "learning rate at its highest",
    "evaluation.max_new_tokens": "length limit of a generated program",
    "evaluation.batch_size": "programs that are written at once",
    "tracking.wandb_mode": "Weights & Biases: without a network, with one, or not at all",
    "tracking.wandb_project": "project of the runs",
    "tracking.wandb_entity": "user or team that the runs belong to; null: the account's own",
}
RECIPE = {  # of whatever is pretrained
    "steps": "optimizer steps",
    "batch_size": "samples of a step",
    "lr": "learning rate at its highest",
    "warmup_fraction": "share of the steps in which the rate rises",
    "weight_decay": "of AdamW",
    "save_every": "steps between resumable states",
    "log_every": "steps between lines of the log",
    "kl_weight": "of the bottleneck's Kullback-Leibler divergence in the loss",
    "contrastive_weight": "of the alignment's loss",
}


# -- commands ----------------------------------------------------------------------------------------------------------


def commands(group: Any = None, path: tuple[str, ...] = ("cadmllm",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that it is called by, groups before what is in them."""
    group = group or get_command(app)
    yield path, group
    if hasattr(group, "commands"):
        for name in group.list_commands(None):
            yield from commands(group.get_command(None, name), (*path, name))


def commands_page() -> str:
    """Markdown: all commands, their arguments and options."""
    panels = {name: panel for panel, names in COMMANDS.items() for name in names}
    lines = [
        "# Commands",
        "",
        "Every command says the same with `--help`. Pipeline stages are what `dvc repro` runs; all of them can be run",
        "by hand. A mistake is told in one line and ends a command with 1, a stop with 130.",
    ]
    panel = ""
    for path, command in commands():
        if len(path) > 1 and panels[path[1]] != panel:
            panel = panels[path[1]]
            lines += ["", f"## {panel}"]
        lines += ["", f"{'##' if len(path) == 1 else '###'} {' '.join(path)}", "", *_command(path, command)]
    return "\n".join(lines) + "\n"


def _command(path: tuple[str, ...], command: Any) -> Iterator[str]:
    yield (command.help or "").strip()
    shown = [each for each in command.params if not each.hidden and each.name != "help"]
    arguments = [each for each in shown if not _is_option(each)]
    words = [*path, *(f"[{_metavar(a)}]" if not a.required else _metavar(a) for a in arguments)]
    words += ["[OPTIONS]"] * any(_is_option(each) for each in shown)
    words += ["COMMAND"] * (hasattr(command, "commands") and not command.invoke_without_command)
    yield from ("", "```text", " ".join(words), "```")
    if shown:
        yield from ("", "| | takes | default | |", "|---|---|---|---|")
        for each in shown:
            names = ", ".join(f"`{name}`" for name in (*each.opts, *each.secondary_opts))
            named = names if _is_option(each) else f"`{_metavar(each)}`"
            variable = f" (variable `{each.envvar}`)" if each.envvar else ""
            yield f"| {named} | {_takes(each)} | {_given(each)} | {_cell(each.help or '')}{variable} |"


def _is_option(param: Any) -> bool:
    return bool(param.opts[0].startswith("-"))


def _metavar(argument: Any) -> str:
    several = "…" if argument.nargs == -1 else ""
    return f"{argument.metavar or argument.name.upper()}{several}"


def _takes(param: Any) -> str:
    kind = param.type_descriptor.annotation
    if kind is bool:
        return "nothing: a switch"
    inner = [each for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) in (Union, UnionType, list) and inner:
        kind = inner[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{each.value}`" for each in kind)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(kind))
    name = {int: "integer", float: "number", Path: "path", str: "text"}.get(kind, "path")
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≥", param.min), ("≤", param.max)) if bound is not None]
    return ", ".join([name, *bounds]) + (", repeated" if param.multiple and _is_option(param) else "")


def _given(param: Any) -> str:
    if param.required:
        return "required"
    default = param.default
    if default is None or default == "":
        return ""
    if param.type_descriptor.annotation is bool:
        return f"`{param.opts[0] if default else param.secondary_opts[0]}`" if param.secondary_opts else "off"
    return f"`{default.value if isinstance(default, Enum) else default}`"


# -- parameters --------------------------------------------------------------------------------------------------------


def parameters() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every parameter: its dotted key, its schema, and what it means; sections too, before what is in them.

    In the order of the default preset. A stage of the curriculum is ``<stage>``, whatever it is called.
    """
    schema, said = Params.model_json_schema(), comments()
    order = [*read_yaml(DEFAULT)]
    found = list(_properties(schema, schema["$defs"], ""))
    for key, each, described in sorted(found, key=lambda given: _rank(given[0].partition(".")[0], order)):
        own = _first(each) if "properties" in each or key == "curriculum" else ""
        comment = said.get(key, "")
        recipe = RECIPE.get(key.rpartition(".")[2], "") if key.startswith("pretraining.") else ""
        comment = "" if CHOICES.fullmatch(comment) else comment
        yield key, each, MEANINGS.get(key) or described or own or comment or recipe


def _rank(name: str, order: list[str]) -> int:
    return order.index(name) if name in order else len(order)


def _properties(schema: dict[str, Any], known: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    for name, given in schema["properties"].items():
        found = _resolved(given, known)
        key = f"{place}{name}"
        yield key, found, given.get("description", "")
        stages = found.get("additionalProperties")
        if isinstance(stages, dict) and "$ref" in stages:
            yield from _properties(_resolved(stages, known), known, f"{key}.<stage>.")
        elif "properties" in found:
            yield from _properties(found, known, f"{key}.")


def _resolved(given: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """A schema with the definition that it refers to, also where it may be null."""
    options = [each for each in given.get("anyOf", []) if "$ref" in each]
    reference = given.get("$ref") or (options[0]["$ref"] if options else None)
    if reference is None:
        return given
    found: dict[str, Any] = {**known[reference.rpartition("/")[2]], **{k: v for k, v in given.items() if k != "$ref"}}
    return found


def comments() -> dict[str, str]:
    """What the default preset says beside its keys, by dotted key."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in DEFAULT.read_text(encoding="utf-8").splitlines():
        if match := COMMENT.match(line):
            indent = len(match["indent"])
            above = [(depth, key) for depth, key in above if depth < indent] + [(indent, match["key"])]
            if match["comment"]:
                found[".".join(key for _, key in above)] = match["comment"]
    return found


def parameters_page() -> str:
    """Markdown: all parameters, with default, type and meaning."""
    document = read_yaml(DEFAULT)
    document["pretraining"] = read_yaml(PRESETS / "pretraining.yaml")["pretraining"]
    lines = [
        "# Parameters",
        "",
        "All keys of `params.yaml`. The default is what the preset `quickstart` has, or what holds where a key is left",
        "out; of the section `pretraining`, what the preset `pretraining` has. Unknown keys and impossible values are",
        "errors, all told at once. [Presets](presets.md) are whole files of them.",
        "",
        "## At the top",
        "",
        *HEAD,
    ]
    for key, schema, meaning in parameters():
        if "." not in key and ("properties" in schema or key == "curriculum"):
            lines += ["", f"## {key}", "", meaning, "", *HEAD]
            continue
        takes = "section" if "properties" in schema else _cell(type_text(schema))
        lines.append(f"| `{key}` | {_default(document, key, schema)} | {takes} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


HEAD = ("| parameter | default | takes | |", "|---|---|---|---|")


def _first(schema: dict[str, Any]) -> str:
    return str(schema.get("description", "")).partition("\n\n")[0].replace("\n", " ")


def _default(document: Any, key: str, schema: dict[str, Any]) -> str:
    if "properties" in schema:
        return "`null`" if schema.get("default", ...) is None else ""
    value: Any = document
    for part in key.split("."):
        value = value.get(part, ...) if isinstance(value, dict) else ...
    if value is ...:
        value = schema.get("default", ...)
    if value is ...:
        return "of each stage" if "<stage>" in key else "`{}`" if schema.get("type") == "object" else "required"
    return f"`{_value(value)}`"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def type_text(schema: dict[str, Any]) -> str:
    """What a parameter takes, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_text(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    match schema.get("type"):
        case "array":
            return f"list of {type_text(schema['items'])}"
        case "object":
            inner = schema.get("additionalProperties")
            return f"mapping to {type_text(inner)}" if isinstance(inner, dict) else "mapping"
        case str() as kind:
            bounds = [f"{sign} {_bound(schema[name])}" for name, sign in BOUNDS if name in schema]
            return ", ".join([NUMBERS[kind], *bounds])
    return "any"


def _bound(value: float) -> str:
    return "2^63" if value == 1 << 63 else f"{value:g}"


def _cell(text: str) -> str:
    """Text that a cell of a table can hold."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


# -- MkDocs ------------------------------------------------------------------------------------------------------------

GENERATED = {"commands.md": commands_page, "parameters.md": parameters_page}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add what is made, and what is part of the site and lies elsewhere."""
    from mkdocs.structure.files import File

    for name, make in GENERATED.items():
        files.append(File.generated(config, name, content=make()))
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:  # noqa: ARG001
    """Links out of docs/, and into it, lead to where ``on_files`` has put the pages."""
    for name in OUTSIDE:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    return markdown.replace("](docs/", "](")
