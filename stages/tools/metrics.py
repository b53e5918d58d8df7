"""``cadmllm metrics``: how close CAD files are to true ones, with nothing else of the pipeline set up."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.runtime.commands import command

SHOWN = (
    ("chamfer_l1_mean", "mean distance, both ways averaged (CAD-MLLM's, times 100)"),
    ("chamfer_squared_sum", "mean squared distances, both ways added"),
    ("chamfer_squared_sum_unit_cube", "the same where the longest side is 1 (cadrille's)"),
    ("f_score_005", "points within 0.05 of the other surface"),
    ("normal_consistency", "absolute cosine of normals"),
    ("volumetric_iou", "common over joint volume"),
    ("segment_error", "components too many or too few"),
    ("segments", "components"),
    ("dangling_edge_length", "edges with one face, in halves of the longest side"),
    ("self_intersection_ratio", "share of faces that meet another"),
    ("flux_enclosure_error", "flux of (1, 1, 1), by the frame's unit squared"),
    ("segments_merged", "plain, vertices merged alone"),
    ("dangling_edge_length_merged", "plain"),
    ("flux_enclosure_error_merged", "plain"),
)


@command
def metrics(
    predicted: Annotated[Path, typer.Argument(help=".step, .stl, .ply, .obj, .glb, .json or .tokens, or a folder.")],
    truth: Annotated[Path, typer.Argument(help="The true one, or a folder with files of the same names.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, all pairs in it.")] = False,
    num_points: Annotated[int, typer.Option(min=16, help="On each side of a distance.")] = 8192,
    align: Annotated[
        bool, typer.Option("--align", help="Centre and scale each file by its own box: for other units or places.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the points that are drawn.")] = 0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds that one pair may take.")] = 60.0,
    memory_mib: Annotated[int, typer.Option(min=256, help="MiB that one pair may take.")] = 4096,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: one for each core.")] = None,
) -> None:
    """Geometric and topological figures of one pair of files, or of two folders matched by name.

    Distances are measured in the true file's frame, where the longest half-side of its box is 1, and topology on the
    predicted file's own coordinates. A prediction that is missing or makes no solid is counted as a single point. Exits
    with 1 where there is such a one.
    """
    from pipeline.metrics.pairs import pairs

    found = pairs(predicted, truth)
    from pipeline.execution.sandbox import Sandbox, cores
    from pipeline.metrics.assess import CompareTask, compare_files
    from pipeline.metrics.compare import compare_pairs, summary
    from pipeline.runtime.progress import display

    with display("metrics") as show, Sandbox(compare_files, workers or cores(), timeout_s, memory_mib) as sandbox:
        results = compare_pairs(found, lambda own, true: CompareTask(own, true, num_points, seed, align), sandbox, show)
    if as_json:
        typer.echo(json.dumps({**summary(results), "pairs": results}, indent=1))
    else:
        for result in results:
            if not result["builds"]:
                typer.echo(f"{result['name']}: {result['reason']}: {result['detail']}")
        if len(results) == 1:
            _print_one(results[0]["metrics"])
        else:
            _print_all(summary(results))
    if any(not result["builds"] for result in results):
        raise typer.Exit(1)


def _print_one(figures: dict[str, Any]) -> None:
    for name, meaning in SHOWN:
        if figures.get(name) is not None:
            typer.echo(f"{name:30} {figures[name]:>12.6g}  {meaning}")


def _print_all(figures: dict[str, Any]) -> None:
    typer.echo(
        f"{figures['num_pairs']} pairs, {figures['build_rate']:.1%} build, {figures['valid_rate']:.1%} watertight"
    )
    typer.echo(f"{'':30} {'mean':>11}  {'95 % interval':>22} {'median':>11}")
    for name, meaning in SHOWN:
        each = figures["metrics"].get(name, figures["of_built"][name])
        if each["mean"] is not None:
            low, high = each["mean_ci95"]
            spread = f"{low:.5g} .. {high:.5g}"
            typer.echo(f"{name:30} {each['mean']:>11.5g}  {spread:>22} {each['median']:>11.5g}  {meaning}")
