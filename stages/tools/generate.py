"""``cadmllm generate``: a model from a caption, a cloud and pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cad.exchange.formats import SCANS, Unit, check_file, check_unit, check_writable
from pipeline.cad.parts.captions import count
from pipeline.execution.sandbox import start_server
from pipeline.generation.candidates import decodings
from pipeline.model.checkpoint_folder import check_checkpoint, models_of
from pipeline.runtime import interrupt
from pipeline.runtime.commands import command, importing
from pipeline.runtime.errors import RejectError, UserError
from pipeline.runtime.scratch import SCRATCH
from pipeline.settings import memory, params
from stages.tools import checkpoints
from stages.tools.cad import facts_text, program_in
from stages.tools.checkpoints import Beside, say

if TYPE_CHECKING:
    from pipeline.cad.language.program import CadProgram
    from pipeline.generation.inputs import UserInputs
    from pipeline.generation.pretrained import CadMllm, Generated
    from pipeline.generation.search.state import Found
    from pipeline.model.checkpoint_folder import CheckpointConfig

FOR_ONE_PROMPT = (  # with what it takes less memory
    "fewer --candidates or --beams, a smaller --max-tokens",
    "a checkpoint of a smaller language model, or of one with training.dtype: bfloat16",
)
SEARCH = "pipeline.generation.search.search"
ANOTHER_SHAPE = 0.15  # a misfit: the same part has 0.02, two different ones 0.26 in the median


Out = Annotated[
    Path,
    typer.Option(
        help=".step, .stl, .ply, .obj, .glb, .png, .json (Omni-CAD), .tokens or .py (CadQuery)", dir_okay=False
    ),
]
Caption = Annotated[str, typer.Argument(help="What to build, in words; none for a checkpoint trained without.")]
Points = Annotated[
    Path | None,
    typer.Option(
        help="What it looks like. A cloud: .npy, .npz, .xyz, .pts, .txt, .csv, .ply, .obj, (N, 3) or with normals "
        "(N, 6). A mesh: .stl, .ply, .obj, .glb. A solid: .step."
    ),
]
PointsUnit = Annotated[
    Unit | None,
    typer.Option("--unit", help="Of the numbers in --points; STEP and GLB have their own.", show_default="m"),
]
Images = Annotated[list[Path] | None, typer.Option(help="A picture; repeat for more views, in their order.")]
Start = Annotated[
    Path | None, typer.Option(help="A program to go on from, .json (Omni-CAD), .tokens or .py.", dir_okay=False)
]
Steps = Annotated[int | None, typer.Option(min=1, help="Take only so many extrusions of --start.")]
Candidates = Annotated[
    int, typer.Option(min=1, help="Write so many, keep the best: nearest to the cloud or the pictures, or likeliest.")
]
SearchS = Annotated[
    float | None,
    typer.Option(
        "--search",
        min=0.0,
        metavar="SECONDS",
        help="Then change them until they explain the cloud or pictures, so long at most.",
    ),
]
Builds = Annotated[
    int | None,
    typer.Option(min=1, help="Search so many programs at most: the same result on any machine."),
]
Checkpoint = Annotated[Path | None, typer.Option(help=checkpoints.HELP)]
SizeMm = Annotated[
    float, typer.Option(min=0.001, help="Longest side of the result, where no cloud and no start gives it.")
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="0 is greedy. Default: the first candidate greedy, the others sampled at 0.7."),
]
TopP = Annotated[float, typer.Option(min=0.01, max=1.0, help="For sampling: the likeliest of this share.")]
Beams = Annotated[
    int, typer.Option(min=1, help="Above 1: candidates are the likeliest of a beam search; at least as many.")
]
Seed = Annotated[int, typer.Option(min=0, help="For sampling.")]
AsJson = Annotated[bool, typer.Option("--json", help="What is known of the result, as one JSON object.")]
MaxTokens = Annotated[int, typer.Option(min=16, help="Length limit of the program.")]


@command
@memory.explained(lambda: "with the model and its candidates", lambda: FOR_ONE_PROMPT)
def generate(
    out: Out,
    caption: Caption = "",
    points: Points = None,
    unit: PointsUnit = None,
    image: Images = None,
    start: Start = None,
    steps: Steps = None,
    candidates: Candidates = 1,
    search: SearchS = None,
    builds: Builds = None,
    checkpoint: Checkpoint = None,
    size_mm: SizeMm = 100.0,
    temperature: Temperature = None,
    top_p: TopP = 1.0,
    beams: Beams = 1,
    seed: Seed = 0,
    max_tokens: MaxTokens = 512,
    as_json: AsJson = False,
) -> None:
    """Generate a CAD model and write it as a solid, a mesh, a picture or a program."""
    caption, images, searched = caption.strip(), image or [], search is not None or builds is not None
    first = _check_given(out, caption, points, unit, images, start, steps, searched)
    decodings(candidates, max_tokens, temperature, top_p, beams, seed)
    folder, p = checkpoints.chosen(checkpoint)
    config = check_checkpoint(folder)
    given = _read_given(config, folder, caption, points, unit, images, searched)
    model = _load(folder, given, p, alone=beams == 1)
    if searched:
        interrupt.listen()
    found = model.generate_from(
        given,
        candidates,
        start=first,
        size_mm=size_mm,
        temperature=temperature,
        top_p=top_p,
        num_beams=beams,
        max_new_tokens=max_tokens,
        seed=seed,
        num_workers=params.num_workers() if searched else min(candidates, params.num_workers()),
        search_s=search,
        builds=builds,
        show=_show if given.points is not None else _show_likeness,
        scratch=SCRATCH / "search",
    )
    _write_best(found, given, model.model.grammar.bits, out, p, candidates > 1 and not searched, as_json)


def _read_given(
    config: "CheckpointConfig",
    folder: Path,
    caption: str,
    points: Path | None,
    unit: Unit | None,
    images: list[Path],
    searched: bool,
) -> "UserInputs":
    """What is given, once it is sure that the checkpoint can take it; the kernel is loaded meanwhile."""
    from pipeline.generation.inputs import check_known, read_inputs

    num_points = check_known(config, models_of(folder), points is not None, len(images))
    start_server("pipeline.cad.exchange.files", "pipeline.generation.select", *[SEARCH] * searched)
    return read_inputs(caption, points, images, num_points, say, unit or Unit.M)


def _show(found: "Found") -> None:
    score = found.score
    say(
        f"fit {score.value:.3f} (volume {score.volume:.3f}, surface {score.surface:.3f}), "
        f"{len(found.tokens or ())} tokens; {found.judged:,} programs judged"
    )


def _show_likeness(found: "Found") -> None:
    judged = f"{len(found.tokens or ())} tokens; {found.judged:,} programs judged"
    say(f"fit {found.score.value:.3f} (likeness {found.score.volume:.3f}), {judged}")


def _load(folder: Path, given: "UserInputs", p: Beside, alone: bool) -> "CadMllm":
    """The checkpoint's model; what a user should know of it and of the inputs is said."""
    with importing():
        from pipeline.generation.pretrained import CadMllm

    model = CadMllm.from_pretrained(folder, device=p.training.device, alone=alone)
    for note in _notes(model, given, folder):
        say(f"note: {note}")
    say(f"writing on {model.model.device}")
    return model


def _check_given(
    out: Path,
    caption: str,
    points: Path | None,
    unit: Unit | None,
    images: list[Path],
    start: Path | None,
    steps: int | None,
    searched: bool,
) -> "CadProgram | None":
    """The program that is gone on from.

    Raises:
        UserError: nothing is asked for, or a file is not there or of no known kind.
    """
    check_writable(out)
    if not caption and points is None and not images and start is None:
        raise UserError("what is to be built? Give a caption, --points, --image or --start")
    if searched and points is None and (not images or start is not None):
        raise UserError("--search and --builds need --points, or --image without --start: pictures show the whole part")
    if steps is not None and start is None:
        raise UserError("--steps says how much of --start is taken; give --start too")
    if points is not None:
        check_file(points, SCANS)
        check_unit(points, unit)
    elif unit is not None:
        raise UserError("--unit says what the numbers in --points are; give --points too")
    for path in images:
        check_file(path)
    return None if start is None else read_start(start, steps)


def _write_best(
    found: "list[Generated]", given: "UserInputs", bits: int, out: Path, p: Beside, best_of: bool, as_json: bool
) -> None:
    """Write the first of the candidates, and say what it is; after a search that was stopped the command ends so."""
    from pipeline.cad.exchange.files import WriteOptions
    from pipeline.cad.parts.describe import describe

    best, options = found[0], WriteOptions(bits, p.codec.tolerance)
    try:
        facts = best.write(out, options, p.kernel.timeout_s, p.kernel.memory_mib)
    except RejectError as error:
        hint = "another caption, more --candidates, --temperature 0.7 or another --seed may do better"
        raise RejectError(error.reason, f"{error.detail}; {hint}") from error
    solids = sum(candidate.is_valid for candidate in found)
    shown = f" (best of {count(len(found), 'different candidate')}, {solids} of them solid)" if best_of else ""
    facts = {"extrusions": len(best.program.extrudes), **facts}
    misfit, of_cloud = best.candidate.misfit, given.points is not None
    if as_json:
        of = "cloud" if of_cloud else "pictures"
        known = {"file": str(out), "tokens": len(best.candidate.tokens), **facts}
        known |= {"misfit": misfit, "misfit_to": None if misfit is None else of}
        known |= {"log_likelihood": best.candidate.log_likelihood, "candidates": len(found), "solids": solids}
        typer.echo(json.dumps({**known, "steps": describe(best.program)}))
    else:
        typer.echo(f"{out}: {len(best.candidate.tokens)} tokens{shown}{facts_text(facts)}")
    if misfit is not None:
        what = "the cloud: {:.4f} of its longest half-side" if of_cloud else "the pictures: {:.4f} of their grey values"
        if not as_json:
            typer.echo(f"misfit to {what.format(misfit)}")
        if of_cloud and misfit > ANOTHER_SHAPE:
            say(
                "note: this is another shape than the cloud's; more --candidates or --search may find it, or a "
                "caption in the words of the corpus"
            )
    if interrupt.requested():
        say(f"stopped before the search was over: {out} has the best that was found until then")
        raise typer.Exit(130)


def _notes(model: "CadMllm", given: "UserInputs", folder: Path) -> Iterator[str]:
    """What a user should know of a checkpoint and such inputs."""
    if given.combination not in model.combinations:
        known = ", ".join(model.combinations)
        yield f"{folder} was trained on {known}, never on {given.combination or 'no input'}"
    tokens = len(model.model.tokenizer(given.caption, add_special_tokens=False)["input_ids"])
    if tokens > (most := model.model.params.max_caption_tokens):
        yield f"the caption has {tokens} tokens; {folder} reads the first {most}"


def read_start(path: Path, steps: int | None) -> "CadProgram":
    """The first extrusions of a program file, in metres.

    Raises:
        UserError: the file holds no program. RejectError: it cannot be read, or has fewer extrusions.
    """
    from pipeline.cad.language.program import CadProgram

    program = program_in(path)
    if steps is not None and steps > len(program.extrudes):
        raise UserError(f"--steps {steps}: {path} has {count(len(program.extrudes), 'extrusion')}")
    return CadProgram(program.extrudes[:steps])
