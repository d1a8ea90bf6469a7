"""Plots for the pages: the same file each time, on white in light and dark mode, in colours that all can tell apart.

matplotlib is needed where a benchmark is asked for a plot, and nowhere else: pip install matplotlib
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
"""Of Okabe and Ito's colours, 2008, and a grey."""


def panels(columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure of some inches with panels beside each other: (figure, its axes)."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "jitr", "svg.fonttype": "none"})
    matplotlib.rcParams.update({"font.size": 9, "font.sans-serif": ["DejaVu Sans", "Arial"], "axes.axisbelow": True})
    matplotlib.rcParams.update(
        {"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
    )
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False, **options)
    return figure, axes[0]


def save(figure: Any, path: Path, top: float = 1.0) -> None:
    """Write the SVG, without a date and on white; the panels end at `top`, the rest is for a legend."""
    figure.tight_layout(rect=(0, 0, 1, top))
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))
