"""The report's curves as SVG, the same bytes for the same numbers."""

import io
from collections.abc import Mapping, Sequence

COLOURS = {
    "text": "#3b6fb6",
    "text+point_cloud": "#d1662c",
    "text+image": "#3f9256",
    "text+point_cloud+image": "#8556a5",
    "point_cloud": "#e0a458",
    "image": "#7cc08f",
    "point_cloud+image": "#b79ac8",
}
Series = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Series], y_label: str, boundaries: Sequence[tuple[float, str]], smooth: bool = False
) -> str:
    """Curves over optimizer steps as an SVG element.

    Args:
        series: points by name; names of combinations have their own colours.
        boundaries: where a curriculum stage begins, and its name.
        smooth: draw the points faintly and their running mean over them.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "cadmllm", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(7.2, 2.9), layout="constrained")
        for name, points in series.items():
            colour = COLOURS.get(name, "#333333")
            steps, values = [p[0] for p in points], [p[1] for p in points]
            if smooth:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                axes.plot(steps, running_mean(values), color=colour, linewidth=1.6)
            else:
                axes.plot(steps, values, color=colour, marker="o", markersize=3.5, linewidth=1.4, label=name)
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
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.7)
        if not smooth:
            axes.legend(frameon=False, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def running_mean(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """An exponential mean, without the bias of its start."""
    means, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        means.append(total / norm)
    return means
