"""Plots for the pages: the same file each time, on white in light and dark mode, in colours that all can tell apart.

matplotlib is needed where a benchmark is asked for a plot, and nowhere else: pip install matplotlib
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
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
    """Write the SVG, on white, small and without a date; the panels end at `top`, above is room for a legend."""
    figure.tight_layout(rect=(0, 0, 1, top))
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, facecolor="white")
    # Coordinates have six decimals; no label has four.
    rounded = re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.1f}", text.getvalue())
    path.write_text("".join(f"{line.rstrip()}\n" for line in rounded.splitlines()), encoding="utf-8")
