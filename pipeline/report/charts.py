"""The report's curves as SVG, the same bytes for the same numbers."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

COLOURS = {
    "text": "#3b6fb6",
    "text+point_cloud": "#d1662c",
    "text+image": "#3f9256",
    "text+point_cloud+image": "#8556a5",
    "point_cloud": "#e0a458",
    "image": "#7cc08f",
    "point_cloud+image": "#b79ac8",
}
DISTURBANCES = {
    "noise": "noise on the points",
    "dropped": "share of points left out",
    "rotation": "degrees turned",
}
Series = Sequence[tuple[float, float]]


def shown(combination: str) -> str:
    """A combination's name as it is read."""
    return combination.replace("point_cloud", "points").replace("+", " + ")


def disturbance_chart(figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Median chamfer distance over the level of each disturbance as an SVG element.

    Args:
        figures: by disturbance and level, as ``metrics/robustness.json`` has them.
    """
    base = figures.get("noise", {}).get("0")
    rows = [row for levels in figures.values() for row in levels.values()]
    highest = max(row["chamfer_l1_mean"]["median"] for row in rows)
    with _figure(len(figures)) as (plot, svg):
        for axes, (name, levels) in zip(plot, sorted(figures.items()), strict=True):
            rows = list(levels.values())
            rows += [base] if base is not None and "0" not in levels else []
            rows = sorted(rows, key=lambda row: row["level"])
            combination = rows[0]["input"]
            medians = [row["chamfer_l1_mean"]["median"] for row in rows]
            axes.plot([row["level"] for row in rows], medians, color=COLOURS[combination], marker="o", markersize=3.5)
            axes.set_xlabel(DISTURBANCES[name])
            axes.set_title(shown(combination), fontsize=9)
            axes.set_ylim(0, 1.15 * highest)
        plot[0].set_ylabel("median chamfer distance")
    return svg()


@contextmanager
def _figure(columns: int, height: float = 2.9) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Axes beside each other, and what gives the SVG element once the block has ended."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "cadmllm", "svg.fonttype": "none", "font.size": 9}):
        figure, plot = plt.subplots(1, columns, figsize=(7.2, height), layout="constrained", squeeze=False)
        for axes in plot[0]:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#e5e5e5", linewidth=0.7)
        yield plot[0], lambda: buffer.getvalue()[buffer.getvalue().index("<svg") :]
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)


def line_chart(
    series: Mapping[str, Series], y_label: str, boundaries: Sequence[tuple[float, str]], smooth: bool = False
) -> str:
    """Curves over optimizer steps as an SVG element.

    Args:
        series: points by name; names of combinations have their own colours.
        boundaries: where a curriculum stage begins, and its name.
        smooth: draw the points faintly and their running mean over them.
    """
    with _figure(1) as ((axes,), svg):
        for name, points in series.items():
            colour = COLOURS.get(name, "#333333")
            steps, values = [p[0] for p in points], [p[1] for p in points]
            if smooth:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                axes.plot(steps, running_mean(values), color=colour, linewidth=1.6)
            else:
                axes.plot(steps, values, color=colour, marker="o", markersize=3.5, linewidth=1.4, label=shown(name))
        for at, name in boundaries:
            axes.axvline(at, color="#999999", linewidth=0.8, linestyle=":")
            axes.annotate(
                name,
                (at, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                color="#666666",
                fontsize=8,
            )
        axes.set_xlabel("optimizer step, all stages")
        axes.set_ylabel(y_label)
        if not smooth:
            axes.legend(frameon=False, fontsize=8)
    return svg()


def spread_chart(panels: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]) -> str:
    """Points with whiskers beside each other as an SVG element, one panel for each figure.

    Args:
        panels: by label, by variant, by combination: a mean and the spread around it.
    """
    rows = max(len(variants) for variants in panels.values())
    with _figure(len(panels), height=1.2 + 0.45 * rows) as (plot, svg):
        for axes, (label, variants) in zip(plot, panels.items(), strict=True):
            combinations = list(dict.fromkeys(name for each in variants.values() for name in each))
            for number, combination in enumerate(combinations):
                own = [(row, each[combination]) for row, each in enumerate(variants.values()) if combination in each]
                axes.errorbar(
                    [mean for _, (mean, _) in own],
                    [row + 0.15 * (number - (len(combinations) - 1) / 2) for row, _ in own],
                    xerr=[spread / 2 for _, (_, spread) in own],
                    fmt="o",
                    markersize=4,
                    color=COLOURS.get(combination, "#333333"),
                    label=shown(combination),
                )
            axes.set_yticks(range(len(variants)), [name.replace("_", " ") for name in variants])
            axes.invert_yaxis()
            axes.set_xlabel(label)
            axes.grid(axis="x", color="#e5e5e5", linewidth=0.7)
        marks = plot[0].get_legend_handles_labels()
        plot[0].figure.legend(*marks, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
        for axes in plot[1:]:
            axes.set_yticklabels([])
    return svg()


def running_mean(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """An exponential mean, without the bias of its start."""
    means, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        means.append(total / norm)
    return means
