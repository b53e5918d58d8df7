"""``cadmllm generate``: a model from a caption, a cloud and pictures."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import params
from pipeline.errors import RejectError
from stages.cad import facts_text
from stages.runner import CHECKPOINTS, MODELS, command


@command
def generate(
    caption: Annotated[str, typer.Argument(help="What to build, in words.")],
    out: Annotated[
        Path, typer.Option(help=".step, .stl, .glb, .ply, .png, .json (Omni-CAD) or .tokens", dir_okay=False)
    ],
    points: Annotated[
        Path | None, typer.Option(help="A point cloud, .npy or .npz: (N, 3) or (N, 6) with normals.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture; repeat for more views, in their order.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: that of the last curriculum stage.")] = None,
    size_mm: Annotated[
        float, typer.Option(min=0.001, help="Longest side of the result, where no cloud gives it.")
    ] = 100.0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="For sampling.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=16, help="Length limit of the program.")] = 512,
) -> None:
    """Generate a CAD model and write it as a solid, a mesh, a picture or a program."""
    from pipeline.cad.codec import Codec
    from pipeline.cad.files import ConvertTask, WriteOptions, check_writable, convert
    from pipeline.cad.program import Frame
    from pipeline.cad.sandbox import Failure, Sandbox
    from pipeline.device import DTYPES, choose_device
    from pipeline.generation.generate import generate_tokens
    from pipeline.generation.prompt import make_prompt, read_inputs
    from pipeline.training.checkpoint import load_checkpoint

    check_writable(out)
    given = read_inputs(caption, points, image or [])
    p = params.load()
    folder = checkpoint or CHECKPOINTS / list(p.curriculum)[-1]
    model = load_checkpoint(folder, MODELS / "llm", DTYPES[p.training.dtype]).to(choose_device(p.training.device))
    tokens = generate_tokens(model, [make_prompt(model, MODELS, given)], max_tokens, temperature, seed)[0]
    program = Codec(model.grammar.bits).decode(tokens)
    frame = given.frame or Frame((0.0, 0.0, 0.0), size_mm / 2000)
    options = WriteOptions(model.grammar.bits, p.codec.tolerance)
    with Sandbox(convert, 1, p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        result = next(sandbox.map([ConvertTask(program.restored(frame), out.resolve(), options)]))
    if isinstance(result, Failure):
        hint = "another caption, --temperature 0.7 or another --seed may do better"
        raise RejectError(
            result.reason, f"the generated program ({len(tokens)} tokens) makes no solid: {result.detail}; {hint}"
        )
    typer.echo(f"{out}: {len(tokens)} tokens{facts_text({'extrusions': len(program.extrudes), **result})}")
