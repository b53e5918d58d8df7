"""``cadmllm pretrain reconstruction`` and ``language-model``."""

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.pretraining.settings import Pretraining
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.runtime.commands import long_running
from pipeline.runtime.fingerprint import sha256_folder
from pipeline.runtime.progress import Display, display
from pipeline.runtime.scratch import clean, work_folder
from pipeline.settings import params
from pipeline.settings.places import CORPUS
from stages.tools.pretrain.common import (
    ALIGNED,
    ENCODERS,
    IMAGE_ENCODER,
    LANGUAGE,
    LANGUAGE_MODEL,
    RECONSTRUCTION,
    SCORES,
    SHAPE_ENCODER,
    corpus_inputs,
    geometry_inputs,
    require,
    settings,
    shape_data,
    speed_log,
)

if TYPE_CHECKING:
    import numpy as np

    from pipeline.planning.params import Params
    from pipeline.pretraining.data import ShapeData
    from pipeline.pretraining.reconstruction import ReconstructionBatches, ReconstructionTraining


@long_running
def reconstruction() -> None:
    """Train the point cloud encoder on, with a language model: programs from scans of their own solids."""
    p, pretraining = settings()
    require(ALIGNED)
    described, inputs = reconstruction_identity(p, pretraining)
    from pipeline.cad.language.codec import Codec
    from pipeline.encoders.michelangelo import MichelangeloEncoder
    from pipeline.pretraining.data import program_hashes
    from pipeline.pretraining.reconstruction import ReconstructionBatches, make_reconstruction
    from pipeline.runtime.device import choose_device
    from pipeline.shards.reader import CorpusReader
    from pipeline.shards.seen import write_seen

    recipe, device, codec = pretraining.reconstruction, choose_device(p.training.device), Codec(p.codec.bits)
    with (
        display("pretrain reconstruction") as show,
        work_folder("pretrain-reconstruction", __name__, described, inputs) as scratch,
    ):
        corpus = CorpusReader(CORPUS)
        rows = corpus.rows("train")
        captions = [corpus.caption(row) for row in rows]
        encoder = MichelangeloEncoder.from_pretrained(ALIGNED / SHAPE_ENCODER)
        projector, architecture = p.model.projectors.point_cloud, p.models.llm.architecture
        size = pretraining.vocabulary_size
        tokenizer, module = make_reconstruction(encoder, projector, architecture, captions, codec.grammar, size, p.seed)
        module.to(device)
        train, validation = (
            ReconstructionBatches.of_rows(
                corpus, corpus.rows(split), tokenizer, p.model.max_caption_tokens, codec, recipe, p.seed
            )
            for split in ("train", "validation")
        )
        show.say(f"{len(captions)} models to train on, on {device}")
        losses = train_and_validate("reconstruction", p, module, train, validation, scratch, show)
        with atomic_folder(RECONSTRUCTION) as folder:
            module.encoder.save_pretrained(folder / SHAPE_ENCODER)
            seen = program_hashes(corpus, rows)
            write_seen(folder / SHAPE_ENCODER, seen)
            encoders = {"point_cloud": folder / SHAPE_ENCODER}
            write_language_model(module, tokenizer, encoders, seen, folder / LANGUAGE_MODEL)
            write_results(folder, losses, scratch)
        clean(scratch)


def train_and_validate(
    name: str,
    p: "Params",
    module: "ReconstructionTraining",
    train: "ReconstructionBatches",
    validation: "ReconstructionBatches",
    scratch: Path,
    show: Display,
) -> dict[str, float]:
    """Train the module, where it is, by the recipe of its batches; the losses in validation."""
    from pipeline.pretraining.loop import Pretrainer
    from pipeline.pretraining.reconstruction import mean_losses
    from pipeline.runtime.device import DTYPES

    workers, dtype = params.num_workers() if module.llm.device.type == "cuda" else 0, DTYPES[p.training.dtype]
    log = speed_log(name)
    Pretrainer(module, train.recipe, p.seed, train, module.loss, scratch, log, show, dtype, workers).run()
    losses = mean_losses(module, validation)
    show.say(f"validation loss {losses}")
    return losses


def reconstruction_identity(p: "Params", pretraining: Pretraining) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters, and sha256 of inputs, that encoder and language model depend on."""
    inputs = corpus_inputs() | {"encoder": sha256_folder(ALIGNED / SHAPE_ENCODER)}
    described = {
        "recipe": pretraining.reconstruction,
        "vocabulary_size": pretraining.vocabulary_size,
        "seed": p.seed,
        "llm": p.models.llm,
        "projector": p.model.projectors.point_cloud,
        "limit": p.model.max_caption_tokens,
        "bits": p.codec.bits,
        "dtype": p.training.dtype,
    }
    return described, inputs


def write_language_model(
    module: "ReconstructionTraining", tokenizer: Any, encoders: dict[str, Path], seen: frozenset[str], folder: Path
) -> None:
    """Write a language model with its tokenizer, its projectors and what it has seen.

    Args:
        encoders: folder of each modality's encoder, whose tokens the projector takes.
    """
    from pipeline.shards.seen import write_seen
    from pipeline.weights.projectors import save_projector

    module.llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for modality, projector in module.projectors.items():
        save_projector(projector.state_dict(), folder, modality, encoders[modality])
    write_seen(folder, seen)


def write_results(folder: Path, losses: dict[str, float], scratch: Path) -> None:
    """Write what the card tells, and the log."""
    from pipeline.pretraining.loop import LOG

    write_text(folder / SCORES, json.dumps({"validation_loss": losses}) + "\n")
    write_text(folder / LOG, (scratch / LOG).read_text(encoding="utf-8"))


class Lessons(StrEnum):
    """What a language model learns from."""

    ALL = "all"
    TEXT = "text"
    CAPTIONS = "captions"


From = Annotated[
    Lessons,
    typer.Option(
        "--from",
        help="all: goes on after `reconstruction`, from captions, clouds and pictures; text: programs from captions "
        "alone, anew; captions: the captions themselves, and no program.",
    ),
]


@long_running
def language_model(lessons: From = Lessons.ALL) -> None:
    """Train the language model on: programs from captions, and from what the finished encoders see.

    Those that learn from less are what the curriculum's order is measured on: there is more left to learn.
    """
    p, recipe = settings()
    if lessons is Lessons.ALL:
        go_on_with_pictures(p, recipe)
    else:
        learn_from_text(p, recipe, lessons)


def go_on_with_pictures(p: "Params", pretraining: Pretraining) -> None:
    """All that the encoders see, by a language model that has read clouds."""
    require(ENCODERS)
    recipe = pretraining.language_model
    described = {
        "recipe": recipe,
        "seed": p.seed,
        "pool": pretraining.image_encoder.pool,
        "projectors": p.model.projectors,
        "limit": p.model.max_caption_tokens,
        "bits": p.codec.bits,
        "dtype": p.training.dtype,
    }
    inputs = geometry_inputs() | {path.name: sha256_folder(path) for path in (RECONSTRUCTION, ENCODERS)}
    from pipeline.pretraining.data import program_hashes
    from pipeline.runtime.device import choose_device
    from pipeline.shards.seen import read_seen

    device = choose_device(p.training.device)
    with (
        display("pretrain language-model") as show,
        work_folder("pretrain-language-model", __name__, described, inputs) as scratch,
    ):
        data = {split: shape_data(split, p.seed) for split in ("train", "validation")}
        pictures = {split: every_view(data[split], pretraining, scratch / f"{split}.npy", show) for split in data}
        tokenizer, module = begun_language_model(p, pictures["train"].shape[1:])
        module.to(device)
        train, validation = (picture_batches(p, pretraining, data[split], tokenizer, pictures[split]) for split in data)
        show.say(f"{len(data['train'])} models to train on, on {device}")
        losses = train_and_validate("language_model", p, module, train, validation, scratch, show)
        seen = program_hashes(data["train"].corpus, data["train"].rows) | read_seen(RECONSTRUCTION / LANGUAGE_MODEL)
        with atomic_folder(LANGUAGE) as folder:
            encoders = {"point_cloud": ENCODERS / SHAPE_ENCODER, "image": ENCODERS / IMAGE_ENCODER}
            write_language_model(module, tokenizer, encoders, seen, folder)
            write_results(folder, losses, scratch)
        clean(scratch)


def every_view(
    data: "ShapeData", pretraining: Pretraining, path: Path, show: Callable[[int, int, str], None]
) -> "np.ndarray":
    """(M, V, T, D) what the finished image encoder makes of all views of a split's models."""
    import numpy as np

    from pipeline.encoders.dinov2 import DinoV2Encoder
    from pipeline.pretraining.encoded import encode_views

    encoder = DinoV2Encoder(ENCODERS / IMAGE_ENCODER, pretraining.image_encoder.pool)
    return encode_views(encoder, data, np.tile(np.arange(data.num_views), (len(data), 1)), path, show)


def begun_language_model(p: "Params", pictures: tuple[int, ...]) -> tuple[Any, "ReconstructionTraining"]:
    """The tokenizer, and the language model as clouds have left it, with a new projector for pictures (V, T, D)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline.encoders.michelangelo import MichelangeloEncoder
    from pipeline.model.projector import start_from_pretrained
    from pipeline.pretraining.reconstruction import ReconstructionTraining, new_projector

    begun = RECONSTRUCTION / LANGUAGE_MODEL
    llm = AutoModelForCausalLM.from_pretrained(
        begun, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    encoder = MichelangeloEncoder.from_pretrained(ENCODERS / SHAPE_ENCODER).requires_grad_(False)
    torch.manual_seed(p.seed)
    shapes = {"point_cloud": (1 + encoder.config.num_latents, encoder.config.width), "image": pictures}
    projectors = {
        modality: new_projector(getattr(p.model.projectors, modality), shape, llm) for modality, shape in shapes.items()
    }
    start_from_pretrained(projectors["point_cloud"], begun, "point_cloud")
    return AutoTokenizer.from_pretrained(begun, trust_remote_code=False), ReconstructionTraining(
        encoder, projectors, llm
    )


def picture_batches(
    p: "Params", pretraining: Pretraining, data: "ShapeData", tokenizer: Any, pictures: "np.ndarray"
) -> "ReconstructionBatches":
    """What the language model learns from of a split."""
    from pipeline.cad.language.codec import Codec
    from pipeline.pretraining.reconstruction import ReconstructionBatches

    limit, codec = p.model.max_caption_tokens, Codec(p.codec.bits)
    recipe = pretraining.language_model
    return ReconstructionBatches.of_rows(data.corpus, data.rows, tokenizer, limit, codec, recipe, p.seed, pictures)


def learn_from_text(p: "Params", pretraining: Pretraining, lessons: Lessons) -> None:
    """A language model of its own, from captions and programs, or from captions."""
    recipe, size = pretraining.text_model, pretraining.vocabulary_size
    described = {
        "recipe": recipe,
        "from": lessons,
        "seed": p.seed,
        "llm": p.models.llm,
        "vocabulary_size": size,
        "limit": p.model.max_caption_tokens,
        "bits": p.codec.bits,
    }
    out = LANGUAGE.with_name(f"{LANGUAGE.name}_{lessons}")
    from pipeline.cad.language.grammar import Grammar
    from pipeline.pretraining.data import program_hashes
    from pipeline.pretraining.language import (
        LanguageTraining,
        ProgramTexts,
        TextBatches,
        make_language_model,
        mean_loss,
    )
    from pipeline.pretraining.loop import Pretrainer
    from pipeline.shards.reader import CorpusReader
    from pipeline.shards.seen import write_seen

    notation = None if lessons is Lessons.CAPTIONS else Grammar(p.codec.bits)
    with (
        display("pretrain language-model") as show,
        work_folder("pretrain-language-model", __name__, described, corpus_inputs()) as scratch,
    ):
        corpus = CorpusReader(CORPUS)
        rows = {split: corpus.rows(split) for split in ("train", "validation")}
        captions = [corpus.caption(row) for row in rows["train"]]
        tokenizer, llm = make_language_model(p.models.llm.architecture, captions, notation, size, p.seed)
        train, validation = (
            ProgramTexts(corpus, rows[split], tokenizer, notation, p.model.max_caption_tokens) for split in rows
        )
        module, log = LanguageTraining(llm), speed_log(out.name)
        batches = TextBatches(train, recipe.batch_size, p.seed)
        Pretrainer(module, recipe, p.seed, batches, module.loss, scratch, log, show).run()
        losses = {"text": round(mean_loss(module, validation, recipe.batch_size), 4)}
        show.say(f"validation loss {losses}")
        with atomic_folder(out) as folder:
            llm.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_seen(folder, frozenset() if lessons is Lessons.CAPTIONS else program_hashes(corpus, rows["train"]))
            write_results(folder, losses, scratch)
        clean(scratch)
