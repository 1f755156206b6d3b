"""A picture of a report: its file, its colours, and the style of its axes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY, RED, BLUE, PALE, INK = "#8c8c8c", "#d1495b", "#2e6f95", "#c9d6df", "#222222"
_DPI = 144
"""Sharp on a screen with small pixels, where the page shows a picture at two thirds."""
_MOST_CHARACTERS = 30


@dataclass(frozen=True)
class Picture:
    """One picture with its caption."""

    name: str
    """Name of its PNG file, without the suffix."""
    caption: str
    figure: Figure

    @cached_property
    def png(self) -> bytes:
        """Content of its PNG file; drawing takes seconds, and is done once."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_DPI)
        return buffer.getvalue()


def write(found: Sequence[Picture], folder: Path) -> list[Path]:
    """Write the pictures as PNG files.

    Args:
        found: Pictures to write.
        folder: Directory for the files; it is created if it is missing.

    Returns:
        Paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{item.name}.png" for item in found]
    for item, path in zip(found, paths, strict=True):
        path.write_bytes(item.png)
    return paths


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches."""
    # Without pyplot, which needs a display and keeps figures open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axis(axis: Any, label: str) -> None:
    """Give an axis its label and the style of all pictures."""
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(labelsize=8)
    if axis.get_xscale() == "linear":
        axis.locator_params(axis="x", nbins=5)
    axis.spines[["top", "right"]].set_visible(False)


def short(label: str) -> str:
    """Return a label that leaves room for the picture."""
    return plain(label if len(label) <= _MOST_CHARACTERS else f"{label[:14]}…{label[-15:]}")


def plain(text: str) -> str:
    """Return a text that matplotlib shows as it is: two dollars in it would begin and end a formula."""
    return text.replace("$", r"\$")
