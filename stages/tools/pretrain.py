"""``cadmllm pretrain``: encoders and a language model of the project's own, on synthetic parts."""

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.curriculum.log import read_log
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.runtime.commands import command, long_running
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import sha256_file, sha256_folder
from pipeline.runtime.progress import display
from pipeline.runtime.scratch import clean, work_folder
from pipeline.settings import params
from pipeline.settings.params import Params
from pipeline.settings.places import CORPUS, GEOMETRY, LOGS, MODELS, PRETRAINED
from pipeline.settings.recipes import Pretraining
from pipeline.settings.resolved import read_models
from pipeline.shards.manifest import MANIFEST, Manifest
from pipeline.shards.reader import CorpusReader
from pipeline.shards.seen import write_seen

if TYPE_CHECKING:
    import numpy as np

    from pipeline.pretraining.data import ShapeData
    from pipeline.pretraining.reconstruction import ReconstructionTraining

pretrain = typer.Typer(help="Pretrain encoders and a small language model on synthetic parts.", no_args_is_help=True)
ALIGNED = PRETRAINED / "aligned"  # both encoders after the first of the two stages
RECONSTRUCTION = PRETRAINED / "reconstruction"  # encoder of clouds and language model, trained together
SHAPES, IMAGES, LANGUAGE = (PRETRAINED / name for name in ("shape_encoder", "image_encoder", "language_model"))
MAX_TEST_MODELS = 500
SCORES = "scores.json"
SHIPPED = Path(__file__).resolve().parents[2] / "pipeline" / "shipped"


def settings() -> tuple[Params, Pretraining]:
    """Parameters with their section on pretraining.

    Raises:
        UserError: there is none.
    """
    p = params.load()
    if p.pretraining is None:
        raise UserError("params.yaml has no section `pretraining`; pretraining/params.yaml does: run in pretraining/")
    return p, p.pretraining


def corpus_inputs() -> dict[str, str]:
    """What all pretraining reads, by sha256."""
    Manifest.read(CORPUS, "corpus")
    Manifest.read(GEOMETRY, "geometry")
    return {"corpus": sha256_file(CORPUS / MANIFEST), "geometry": sha256_file(GEOMETRY / MANIFEST)}


def shape_data(split: str, seed: int) -> "ShapeData":
    """Models of one split."""
    from pipeline.pretraining.data import ShapeData

    return ShapeData(CORPUS, GEOMETRY, split, seed)


def speed_log(name: str) -> Path:
    """Where it is written how fast something was pretrained."""
    return LOGS / "pretrain" / f"{name}.jsonl"


@pretrain.command("shape-encoder")
@long_running
def shape_encoder() -> None:
    """Train both encoders: solids are read back from clouds; clouds, pictures and captions find each other."""
    p, recipe = settings()
    models = read_models(MODELS)
    inputs = corpus_inputs() | {name: models[name]["sha256"] for name in ("image_encoder", "point_cloud_encoder")}
    import torch

    from pipeline.encoders.dinov2 import DinoV2Encoder
    from pipeline.encoders.michelangelo import MichelangeloEncoder
    from pipeline.pretraining.data import program_hashes
    from pipeline.pretraining.loop import LOG, Pretrainer
    from pipeline.pretraining.shapes import ShapeBatches, ShapeTraining, occupancy_scores

    described = {"recipe": recipe.shape_encoder, "pool": recipe.image_encoder.pool, "seed": p.seed}
    described["embedding_width"] = recipe.embedding_width
    with (
        display("pretrain shape-encoder") as show,
        work_folder("pretrain-shape-encoder", __name__, described, inputs) as scratch,
    ):
        images = DinoV2Encoder(MODELS / "image_encoder", recipe.image_encoder.pool)
        shapes = MichelangeloEncoder.from_pretrained(MODELS / "point_cloud_encoder")
        torch.manual_seed(p.seed)
        module = ShapeTraining(shapes, images, recipe.shape_encoder, recipe.embedding_width)
        data, test = shape_data("train", p.seed), shape_data("test", p.seed)
        batches = ShapeBatches(data, images, recipe.shape_encoder)
        log = speed_log("shape_encoder")
        Pretrainer(module, recipe.shape_encoder, p.seed, batches, module.loss, scratch, log, show).run()
        scores = occupancy_scores(module, test, range(min(len(test), MAX_TEST_MODELS)))
        with atomic_folder(ALIGNED) as folder:
            module.save(folder / SHAPES.name, folder / IMAGES.name)
            write_seen(folder / SHAPES.name, program_hashes(data.corpus, data.rows))
            write_text(folder / SCORES, json.dumps(scores, indent=1, sort_keys=True) + "\n")
            write_text(folder / LOG, (scratch / LOG).read_text(encoding="utf-8"))
        clean(scratch)
        show.say(", ".join(f"{name} {value}" for name, value in scores.items()))


@pretrain.command("image-encoder")
@long_running
def image_encoder() -> None:
    """Train the image encoder on: from pictures it learns the tokens of the finished point cloud encoder."""
    p, recipe = settings()
    if not ALIGNED.is_dir():
        raise UserError(f"{ALIGNED} is missing; run `cadmllm pretrain shape-encoder` first")
    described = {"recipe": recipe.image_encoder, "seed": p.seed, "num_points": p.geometry.num_points}
    inputs = corpus_inputs() | {"aligned": sha256_folder(ALIGNED)}
    import torch

    from pipeline.encoders.alignment import AlignmentHead
    from pipeline.encoders.dinov2 import DinoV2Encoder
    from pipeline.encoders.michelangelo import MichelangeloEncoder
    from pipeline.pretraining.data import program_hashes
    from pipeline.pretraining.encoded import encode_clouds
    from pipeline.pretraining.images import ImageBatches, ImageTraining, retrieval_scores
    from pipeline.pretraining.loop import LOG, Pretrainer
    from pipeline.pretraining.shapes import save_image_encoder

    with (
        display("pretrain image-encoder") as show,
        work_folder("pretrain-image-encoder", __name__, described, inputs) as scratch,
    ):
        images = DinoV2Encoder(ALIGNED / IMAGES.name, recipe.image_encoder.pool)
        shapes = MichelangeloEncoder.from_pretrained(ALIGNED / SHAPES.name).eval()
        image_head, shape_head = (AlignmentHead.load(ALIGNED / path.name) for path in (IMAGES, SHAPES))
        assert image_head is not None, "the stage before writes it"
        assert shape_head is not None, "the stage before writes it"
        data, test = shape_data("train", p.seed), shape_data("test", p.seed)
        clouds = encode_clouds(shapes, data, p.geometry.num_points, scratch / "clouds.npy", show)
        sample = torch.from_numpy(clouds[:4096]).float()
        mean, std = sample.mean(dim=0), sample.std(dim=0) + 1e-3
        torch.manual_seed(p.seed)
        module = ImageTraining(images, image_head, shape_head, data.num_views, recipe.image_encoder, mean, std)
        batches, log = ImageBatches(data, images, clouds, recipe.image_encoder), speed_log("image_encoder")
        Pretrainer(module, recipe.image_encoder, p.seed, batches, module.loss, scratch, log, show).run()
        found = retrieval_scores(
            (shapes, shape_head),
            (images, image_head),
            test,
            range(min(len(test), MAX_TEST_MODELS)),
            p.geometry.num_points,
        )
        with atomic_folder(IMAGES) as folder:
            save_image_encoder(images, module.image_head, folder)
            write_seen(folder, program_hashes(data.corpus, data.rows))
            write_text(folder / SCORES, json.dumps(found, indent=1, sort_keys=True) + "\n")
            write_text(folder / LOG, (scratch / LOG).read_text(encoding="utf-8"))
        clean(scratch)
        show.say(f"retrieval among {found['models']} unseen models: {found}")


@pretrain.command("reconstruction")
@long_running
def reconstruction() -> None:
    """Train the point cloud encoder and a language model together: programs from scans of their own solids."""
    p, pretraining = settings()
    described, inputs = reconstruction_identity(p, pretraining)
    from pipeline.cad.language.codec import Codec
    from pipeline.encoders.michelangelo import MichelangeloEncoder
    from pipeline.pretraining.loop import Pretrainer
    from pipeline.pretraining.reconstruction import ReconstructionBatches, make_reconstruction, mean_losses
    from pipeline.runtime.device import DTYPES, choose_device

    recipe, device, codec = pretraining.reconstruction, choose_device(p.training.device), Codec(p.codec.bits)
    with (
        display("pretrain reconstruction") as show,
        work_folder("pretrain-reconstruction", __name__, described, inputs) as scratch,
    ):
        corpus = CorpusReader(CORPUS)
        captions = [corpus.caption(row) for row in corpus.rows("train")]
        encoder = MichelangeloEncoder.from_pretrained(MODELS / "point_cloud_encoder")
        projector, architecture = p.model.projectors.point_cloud, p.models.llm.architecture
        size = pretraining.language_model.vocabulary_size
        tokenizer, module = make_reconstruction(encoder, projector, architecture, captions, codec.grammar, size, p.seed)
        module.to(device)
        train, validation = (
            ReconstructionBatches.of_split(corpus, split, tokenizer, p.model.max_caption_tokens, codec, recipe, p.seed)
            for split in ("train", "validation")
        )
        show.say(f"{len(captions)} models to train on, on {device}")
        log, workers = speed_log("reconstruction"), params.num_workers() if device.type == "cuda" else 0
        dtype = DTYPES[p.training.dtype]
        Pretrainer(module, recipe, p.seed, train, module.loss, scratch, log, show, dtype, workers).run()
        losses = mean_losses(module, validation)
        show.say(f"validation loss {losses}")
        write_reconstruction(module, tokenizer, corpus, losses, scratch)
        clean(scratch)


def reconstruction_identity(p: Params, pretraining: Pretraining) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters, and sha256 of inputs, that encoder and language model depend on."""
    Manifest.read(CORPUS, "corpus")
    inputs = {"corpus": sha256_file(CORPUS / MANIFEST), "encoder": read_models(MODELS)["point_cloud_encoder"]["sha256"]}
    described = {
        "recipe": pretraining.reconstruction,
        "vocabulary_size": pretraining.language_model.vocabulary_size,
        "seed": p.seed,
        "llm": p.models.llm,
        "projector": p.model.projectors.point_cloud,
        "limit": p.model.max_caption_tokens,
        "bits": p.codec.bits,
        "dtype": p.training.dtype,
    }
    return described, inputs


def write_reconstruction(
    module: "ReconstructionTraining", tokenizer: Any, corpus: CorpusReader, losses: dict[str, float], scratch: Path
) -> None:
    """Write encoder, projector and language model, with what they have seen and how well they do."""
    from pipeline.pretraining.data import program_hashes
    from pipeline.pretraining.loop import LOG
    from pipeline.weights.projectors import save_projector

    seen = program_hashes(corpus, corpus.rows("train"))
    with atomic_folder(RECONSTRUCTION) as folder:
        module.encoder.save_pretrained(folder / SHAPES.name)
        module.llm.save_pretrained(folder / LANGUAGE.name)
        tokenizer.save_pretrained(folder / LANGUAGE.name)
        save_projector(module.projector.state_dict(), folder / LANGUAGE.name, "point_cloud", folder / SHAPES.name)
        for name in (SHAPES.name, LANGUAGE.name):
            write_seen(folder / name, seen)
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
        help="all: programs from captions, and from what the encoders see; text: from captions alone; captions: "
        "the captions themselves, and no program.",
    ),
]


@pretrain.command("language-model")
@long_running
def language_model(lessons: From = Lessons.ALL) -> None:
    """A small language model: programs from captions, and from what the encoders see.

    Those that learn from less are what the curriculum's order is measured on: there is more left to learn.
    """
    p, recipe = settings()
    if lessons is Lessons.ALL and not IMAGES.is_dir():
        raise UserError(f"{IMAGES} is missing; run `cadmllm pretrain image-encoder` first")
    described, inputs = language_identity(p, recipe, lessons)
    out = LANGUAGE if lessons is Lessons.ALL else LANGUAGE.with_name(f"{LANGUAGE.name}_{lessons}")
    from pipeline.cad.language.grammar import Grammar
    from pipeline.pretraining.data import program_hashes
    from pipeline.pretraining.language import (
        LanguageTraining,
        ProgramTexts,
        TextBatches,
        make_language_model,
        mean_loss,
    )
    from pipeline.pretraining.loop import LOG, Pretrainer

    notation = None if lessons is Lessons.CAPTIONS else Grammar(p.codec.bits)
    with (
        display("pretrain language-model") as show,
        work_folder("pretrain-language-model", __name__, described, inputs) as scratch,
    ):
        corpus = CorpusReader(CORPUS)
        rows, features = language_data(corpus, p, recipe, lessons, scratch, show)
        captions, size = [corpus.caption(row) for row in rows["train"]], recipe.language_model.vocabulary_size
        tokenizer, llm = make_language_model(p.models.llm.architecture, captions, notation, size, p.seed)
        train, validation = (
            ProgramTexts(corpus, rows[split], tokenizer, notation, p.model.max_caption_tokens, features[split])
            for split in rows
        )
        module = LanguageTraining(llm, {name: array.shape[-1] for name, array in train.features.items()})
        batches = TextBatches(train, recipe.language_model, p.seed)
        log = speed_log("language_model")
        Pretrainer(module, recipe.language_model, p.seed, batches, module.loss, scratch, log, show).run()
        losses = {
            "+".join(["text", *shown]): round(mean_loss(module, validation, recipe.language_model.batch_size, shown), 4)
            for shown in ([], *([name] for name in train.features))
        }
        show.say(f"validation loss {losses}")
        with atomic_folder(out) as folder:
            llm.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_seen(folder, frozenset() if lessons is Lessons.CAPTIONS else program_hashes(corpus, rows["train"]))
            write_text(folder / SCORES, json.dumps({"validation_loss": losses}) + "\n")
            write_text(folder / LOG, (scratch / LOG).read_text(encoding="utf-8"))
        clean(scratch)


def language_identity(p: Params, recipe: Pretraining, lessons: Lessons) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters, and sha256 of inputs, that a language model depends on."""
    described = {
        "recipe": recipe.language_model,
        "from": lessons,
        "seed": p.seed,
        "llm": p.models.llm,
        "limit": p.model.max_caption_tokens,
        "bits": p.codec.bits,
        "pool": recipe.image_encoder.pool,
        "num_points": recipe.shape_encoder.num_points,
    }
    if lessons is not Lessons.ALL:
        return described, {"corpus": sha256_file(CORPUS / MANIFEST)}
    return described, corpus_inputs() | {path.name: sha256_folder(path) for path in (ALIGNED, IMAGES)}


def language_data(
    corpus: CorpusReader,
    p: Params,
    recipe: Pretraining,
    lessons: Lessons,
    scratch: Path,
    show: Callable[[int, int, str], None],
) -> tuple[dict[str, "np.ndarray"], dict[str, dict[str, "np.ndarray"]]]:
    """Of each split the models, and what the encoders see of them where the lessons have it."""
    rows: dict[str, np.ndarray] = {}
    features: dict[str, dict[str, np.ndarray]] = {}
    for split in ("train", "validation"):
        if lessons is Lessons.ALL:
            data = shape_data(split, p.seed)
            rows[split], features[split] = data.rows, seen(data, recipe, scratch / split, show)
        else:
            rows[split], features[split] = corpus.rows(split), {}
    return rows, features


def seen(
    data: "ShapeData", recipe: Pretraining, scratch: Path, show: Callable[[int, int, str], None]
) -> dict[str, "np.ndarray"]:
    """(M, S, width) features of each modality, by the finished encoders; some views of each model, always the same."""
    import numpy as np

    from pipeline.encoders.dinov2 import DinoV2Encoder
    from pipeline.encoders.michelangelo import MichelangeloEncoder
    from pipeline.pretraining.encoded import encode_clouds, encode_views

    shapes = MichelangeloEncoder.from_pretrained(ALIGNED / SHAPES.name)
    clouds = encode_clouds(shapes, data, recipe.shape_encoder.num_points, scratch / "clouds.npy", show)
    images = DinoV2Encoder(IMAGES, recipe.image_encoder.pool)
    drawn = data.drawn_views(len(data), recipe.language_model.num_views, np.random.default_rng([data.seed, 4]))
    views = encode_views(images, data, drawn, scratch / "views.npy", show)
    return {"point_cloud": clouds, "image": views.reshape(len(views), -1, views.shape[-1])}


@pretrain.command("ship")
@command
def ship_all(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="shape_encoder, image_encoder, language_model: all.")
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder for the models.")] = SHIPPED,
) -> None:
    """Copy what was pretrained into the package: half precision, a card with each."""
    p, recipe = settings()
    places = {SHAPES.name: (ALIGNED / SHAPES.name, (ALIGNED, IMAGES)), IMAGES.name: (IMAGES, (IMAGES,))}
    places[LANGUAGE.name] = (LANGUAGE, (LANGUAGE,))
    if unknown := set(names or ()) - places.keys():
        raise UserError(f"nothing is called {', '.join(sorted(unknown))}; there are {', '.join(places)}")
    from pipeline.pretraining.shipping import card, ship

    for source, scored in (places[name] for name in names or places):
        scores = {key: value for folder in scored for key, value in _scores(folder).items()}
        minutes = sum(line["seconds"] for line in read_log(speed_log(source.name))) / 60
        text = card(source.name, p, recipe, {**scores, "minutes on the CPU that made it": round(minutes)})
        size = ship(source, to / source.name, text)
        typer.echo(f"{to / source.name}: {size / 1e6:.1f} MB")


def _scores(folder: Path) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder / SCORES} is missing; pretraining is not finished ({error})") from error
    return found
