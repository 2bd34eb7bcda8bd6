"""The style of the figures, on a light and on a dark page."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import matplotlib
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...files import naming

P = ParamSpec("P")

DARK = ".dark"
DPI = 180
WIDTH = 5.2  # inches; narrow, so that the text stays legible on a phone
WIDE_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Hiragino Sans", "Arial Unicode MS")
LINE_STYLES = ("-", "--", ":")


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours on one background.

    The palette is Okabe and Ito's, which readers with any colour vision can tell apart; its blue is lighter on dark.
    """

    infix: str
    ground: str
    ink: str
    soft: str
    line: str
    palette: tuple[str, ...]

    @property
    def groups(self) -> dict[str, str]:
        """The colour of every shot group, and of all images."""
        blue, orange, green, *_ = self.palette
        return {"many": blue, "medium": green, "few": orange, "all": self.ink, "class_mean": self.soft}

    @property
    def before_after(self) -> tuple[str, str]:
        """The colours of the joint and of the rebalanced classifier."""
        return self.soft, self.palette[1]

    def lines(self, names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return colour and line style of every classifier: the joint one is grey, no two others are alike."""
        others = ((color, style) for style in LINE_STYLES for color in self.palette)
        pairs = itertools.cycle(others)
        return {name: (self.soft, "-") if name == "joint" else next(pairs) for name in names}

    @property
    def style(self) -> Any:
        """Settings for matplotlib."""
        return {
            "font.size": 10,
            "font.family": font_families(),
            "text.parse_math": False,  # a class may be called a$b$c
            "text.color": self.ink,
            "axes.labelcolor": self.soft,
            "axes.titlecolor": self.ink,
            "axes.titlesize": 10,
            "axes.edgecolor": self.line,
            "axes.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": self.line,
            "grid.alpha": 0.6,
            "grid.linewidth": 0.6,
            "xtick.color": self.line,
            "ytick.color": self.line,
            "xtick.labelcolor": self.soft,
            "ytick.labelcolor": self.soft,
            "legend.frameon": False,
            "legend.labelcolor": self.ink,
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
        }


@functools.cache
def font_families() -> list[str]:
    """Return matplotlib's own font, then installed ones with letters that it lacks."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in WIDE_FONTS if name in installed)]


_HUES = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
LIGHT_THEME = Theme(
    infix="", ground="#ffffff", ink="#1c1e21", soft="#6a7078", line="#cfd3d8", palette=("#0072B2", *_HUES)
)
DARK_THEME = Theme(
    infix=DARK, ground="#14171a", ink="#e6e8ea", soft="#9aa1a9", line="#3d434a", palette=("#4FA3E3", *_HUES)
)


def dark_variant(path: Path) -> Path:
    """Return the path of a figure's dark picture."""
    return path.with_name(f"{path.stem}{DARK}{path.suffix}")


def themed(
    height: float,
) -> Callable[[Callable[Concatenate[Figure, Theme, P], None]], Callable[Concatenate[Path, P], Path]]:
    """Turn a function that draws on a figure into one that writes both pictures into a folder.

    Args:
        height: Height of the figure, inches.

    Returns:
        A decorator: `draw(figure, theme, ...)` becomes `draw(folder, ...)`, which returns the path of the light
        picture, named after the function.
    """

    def decorate(draw: Callable[Concatenate[Figure, Theme, P], None]) -> Callable[Concatenate[Path, P], Path]:
        @functools.wraps(draw)
        def write(folder: Path, /, *args: P.args, **kwargs: P.kwargs) -> Path:
            path = folder / f"{draw.__name__}.png"
            for theme in (LIGHT_THEME, DARK_THEME):
                with matplotlib.rc_context(theme.style):
                    figure = Figure(figsize=(WIDTH, height), layout="constrained")
                    FigureCanvasAgg(figure)
                    draw(figure, theme, *args, **kwargs)
                    picture = path.with_name(f"{path.stem}{theme.infix}{path.suffix}")
                    with warnings.catch_warnings(), naming(picture):
                        # A letter that no font has becomes a box in the picture; the page's text shows it
                        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
                        figure.savefig(picture, dpi=DPI)

            return path

        return write

    return decorate
