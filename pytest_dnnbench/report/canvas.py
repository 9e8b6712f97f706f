"""How plots look and how they become SVG and PNG. Matplotlib is imported when something is drawn.

Figures are made without pyplot, so nothing global is kept. Colours are Okabe and Ito's, which
colour-blind readers can tell apart; each series also has a marker of its own. Names are never read
as mathematical text.
"""

import io
import textwrap
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_dnnbench.catalog import FRAMEWORKS
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.report.text import cut_middle, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#333333", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vPX<>*"
INK, FAINT = "#333333", "#d9dde3"

PANEL_INCHES = (4.2, 2.9)
"""Width and height of a panel with its labels."""
MARGIN_INCHES = (0.68, 0.55, 0.15, 0.32)
"""What a panel leaves left, bottom, right and top of its axes."""
DOTS_PER_INCH = 130
"""Of a PNG."""
CAPTION_COLUMNS = 70
"""Letters of the caption that a panel's width has room for."""

_PLACES = {row.name: place for place, row in enumerate(FRAMEWORKS)}

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa3ad",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#e9ecf0",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
# Without metadata the same figures give the same bytes.
_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}

Draw = Callable[["Axes"], None]


def require_matplotlib() -> None:
    """Raises UsageError with the command that installs it."""
    try:
        import matplotlib  # noqa: F401 # only whether it is there
    except ImportError:
        raise UsageError(
            "plots need matplotlib: run `pip install 'pytest-dnnbench[report]'`"
        ) from None


@contextmanager
def style(salt: str) -> Iterator[None]:
    """Our settings, for the length of a drawing. SVG's ids are hashes with the `salt`: the same in
    each run, and unlike those of another panel on the same page."""
    import matplotlib as mpl

    rules: Any = {**_STYLE, "svg.hashsalt": salt}
    with warnings.catch_warnings(), mpl.rc_context(rules):
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font", category=UserWarning
        )
        yield


def svg_panel(draw: Draw, salt: str) -> str:
    """One panel as SVG, its text as text."""
    with style(salt):
        return _svg(_sheet([draw], "", 1))


def svg_sheet(panels: Sequence[Draw], caption: str, salt: str) -> str:
    """Panels, two in a row, over their caption, as SVG."""
    with style(salt):
        return _svg(_sheet(panels, caption, 2))


def png_sheet(panels: Sequence[Draw], caption: str) -> bytes:
    """The same as a picture of dots."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    with style("sheet"):
        canvas: Any = FigureCanvasAgg(_sheet(panels, caption, 2))
        canvas.print_png(stream)
    return stream.getvalue()


def look(framework: str, variant: int = 0) -> dict[str, Any]:
    """Colour and marker of a series: the colour is the framework's in every report, by its place in
    the catalog or, for one of another package, by its name. Series of one framework with other
    options differ in the marker."""
    place = _PLACES.get(framework)
    if place is None:
        place = len(_PLACES) + zlib.crc32(framework.encode())
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + variant) % len(MARKERS)],
    }


def short(text: str, length: int = 34) -> str:
    """A name for a plot. A long one loses its middle. A leading underscore, which would hide the
    label, gets a blank before it."""
    name = cut_middle(plain(text), length)
    return f" {name}" if name.startswith("_") else name


def _sheet(panels: Sequence[Draw], caption: str, columns: int) -> "Figure":
    """A figure of panels. Every panel has the same place in its cell: asking each text for its size
    first would take as long as drawing."""
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    lines = textwrap.wrap(caption, CAPTION_COLUMNS * columns) if caption else []
    foot = 0.16 * len(lines) + 0.1 if lines else 0.0
    width, height = PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + foot
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    left, bottom, right, top = MARGIN_INCHES
    size = ((PANEL_INCHES[0] - left - right) / width, (PANEL_INCHES[1] - bottom - top) / height)
    for place, draw in enumerate(panels):
        row, column = divmod(place, columns)
        x, y = column * PANEL_INCHES[0] + left, height - (row + 1) * PANEL_INCHES[1] + bottom
        draw(figure.add_axes((x / width, y / height, *size)))
    if lines:
        foot_style: dict[str, Any] = {"fontsize": 7.5, "color": "#5b6570", "va": "bottom"}
        figure.text(0.15 / width, 0.08 / height, "\n".join(lines), **foot_style)
    return figure


def _svg(figure: "Figure") -> str:
    # The canvas itself: Figure.savefig draws everything twice.
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(stream, metadata=_NO_METADATA)
    return stream.getvalue()
