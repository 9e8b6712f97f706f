"""How plots look and how they become SVG, PNG and PDF. Matplotlib is imported when something is
drawn.

Figures are made without pyplot, so nothing global is kept. Colours are Okabe and Ito's, then some
of Paul Tol's, which colour-blind readers can tell apart; each series also has a marker of its own.
Names are never read as mathematical text.
"""

import io
import textwrap
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.report.text import cut_middle, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#333333", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00",
    "#882255", "#999933", "#6699CC", "#117733",
)  # fmt: skip
MARKERS = "osD^vPX<>*"
INK, FAINT, QUIET = "#333333", "#d9dde3", "#5b6570"

DISTURBED = "disturbed launch"
"""The legend of launches that count for nothing that is drawn."""

_MOST_ENTRIES = 12
"""Entries of a legend; the tables have all series."""

PANEL_INCHES = (4.2, 3.0)
"""Width and height of a panel with its labels, without its legend."""
WIDE_INCHES = 8.4
"""Width of a panel that stands alone and is wide."""
MARGIN_INCHES = (0.72, 0.55, 0.15, 0.46)
"""What a panel leaves left, bottom, right and top of its axes; two lines of title fit."""
DOTS_PER_INCH = 130
"""Of a PNG on a screen."""
PRINT_DOTS_PER_INCH = 300
"""Of a PNG for print."""
TITLE_COLUMNS = 38
"""Letters of a line of title that a panel has room for."""

_CAPTION_LETTER, _LEGEND_LETTER, _LEGEND_LINE, _LEGEND_MARK = 0.072, 0.073, 0.17, 0.42
"""Inches: of a letter of the caption and of the legend, a line of the legend, and its mark."""

_PLACES = {row.name: place for place, row in enumerate(FRAMEWORKS)}

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa3ad",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # else every tick's text is laid out once more, to keep off the title
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#e9ecf0",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "pdf.fonttype": 42,  # as journals want them: fonts of outlines, embedded
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


def png_and_svgs(
    panels: Sequence[Draw], caption: str, name: str, width: float
) -> tuple[bytes, tuple[str, ...]]:
    """The panels as one picture of dots over the caption, and each by itself as SVG without it,
    text as text. Each panel is drawn once: to make its lines and ticks takes as long as to write
    them."""
    with style(name):
        sheet = _Sheet(panels, width)
        sheet.arrange(sheet.axes, caption, 2)
        png = _png(sheet.figure, DOTS_PER_INCH)
    svgs = []
    for number, axes in enumerate(sheet.axes, 1):
        with style(f"{name}-{number}"):
            sheet.arrange([axes], "", 1)
            svgs.append(_svg(sheet.figure))
    return png, tuple(svgs)


def svg_sheet(panels: Sequence[Draw], caption: str, salt: str) -> str:
    """Panels, two in a row, over their caption, as SVG."""
    with style(salt):
        return _svg(_sheet(panels, caption, 2))


def png_sheet(panels: Sequence[Draw], caption: str, *, dots_per_inch: int) -> bytes:
    """The same as a picture of dots."""
    with style("sheet"):
        return _png(_sheet(panels, caption, 2), dots_per_inch)


def pdf_sheet(panels: Sequence[Draw], caption: str) -> bytes:
    """The same as PDF."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    stream = io.BytesIO()
    no_metadata: dict[str, Any] = {"CreationDate": None, "Creator": None, "Producer": None}
    with style("sheet"):
        canvas: Any = FigureCanvasPdf(_sheet(panels, caption, 2))
        canvas.print_pdf(stream, metadata=no_metadata)
    return stream.getvalue()


def look(framework: str, variant: int = 0) -> dict[str, Any]:
    """Colour and marker of a series: the colour is the framework's in every report, by its place in
    the catalog or, for one of another package, by its name. Series of one framework with other
    options differ in the marker."""
    place = _PLACES.get(framework)
    if place is None:  # of another package: none of the first colours, which are ours
        free = max(len(COLOURS) - len(_PLACES), 4)
        place = len(COLOURS) - 1 - zlib.crc32(framework.encode()) % free
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + variant) % len(MARKERS)],
    }


def short(text: str, length: int = 34) -> str:
    """A name for a plot. A long one loses its middle. A leading underscore, which would hide the
    label, gets a blank before it."""
    name = cut_middle(printable(text), length)
    return f" {name}" if name.startswith("_") else name


def title_text(title: str) -> str:
    """A title on one line or two. A long one is parted before a comma; what is too long for a line
    loses its middle, and its end is kept."""
    if len(title) <= TITLE_COLUMNS:
        return short(title, TITLE_COLUMNS)
    head, _, tail = title.partition(", ")
    lines = [head, tail] if tail else [title]
    return "\n".join(short(line, TITLE_COLUMNS) for line in lines)


def _sheet(panels: Sequence[Draw], caption: str, columns: int) -> "Figure":
    sheet = _Sheet(panels, PANEL_INCHES[0])
    sheet.arrange(sheet.axes, caption, columns)
    return sheet.figure


class _Sheet:
    """A figure of panels, drawn once, each with its legend below it, where no line can be."""

    def __init__(self, panels: Sequence[Draw], width: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(dpi=DOTS_PER_INCH)
        self._width = width
        self._foot: Any = None
        self.axes = [
            self.figure.add_axes((0.1, 0.1, 0.8, 0.8), label=str(place))
            for place in range(len(panels))
        ]
        self._legends: dict[Axes, Any] = {}
        for axes, draw in zip(self.axes, panels, strict=True):
            draw(axes)
            self._legends[axes] = _legend(axes, width)

    def arrange(self, shown: Sequence["Axes"], caption: str, columns: int) -> None:
        """Shows these panels alone, so many in a row, over the caption. Every panel has the same
        place in its cell: asking each text for its size first would take as long as drawing."""
        columns, width = min(columns, len(shown)), self._width
        legend = max(_legend_lines(axes, width) for axes in shown) * _LEGEND_LINE
        lines = textwrap.wrap(caption, int((width * columns - 0.3) / _CAPTION_LETTER))
        foot = 0.16 * len(lines) + 0.1 if lines else 0.0
        cell = PANEL_INCHES[1] + legend
        whole = (width * columns, cell * -(-len(shown) // columns) + foot)
        self.figure.set_size_inches(*whole)
        for axes in self.axes:
            axes.set_visible(axes in shown)
        for place, axes in enumerate(shown):
            row, column = divmod(place, columns)
            corner = (column * width, whole[1] - (row + 1) * cell)
            self._place(axes, corner, legend, whole)
        if self._foot is not None:
            self._foot.remove()
            self._foot = None
        if lines:
            foot_style: dict[str, Any] = {"fontsize": 7.5, "color": QUIET, "va": "bottom"}
            text = "\n".join(lines)
            self._foot = self.figure.text(0.15 / whole[0], 0.08 / whole[1], text, **foot_style)

    def _place(
        self, axes: "Axes", corner: tuple[float, float], legend: float, whole: tuple[float, float]
    ) -> None:
        """Puts axes and legend into their cell, whose lower left corner is given; all in inches."""
        (x, y), (left, bottom, right, top) = corner, MARGIN_INCHES
        left = max([left, *(0.2 + _CAPTION_LETTER * len(name) for name in _names(axes))])
        width, height = self._width - left - right, PANEL_INCHES[1] - bottom - top
        axes.set_position(
            (
                (x + left) / whole[0],
                (y + legend + bottom) / whole[1],
                width / whole[0],
                height / whole[1],
            )
        )
        if entries := self._legends[axes]:
            anchor = ((x + 0.1) / whole[0], (y + legend + 0.06) / whole[1])
            entries.set_bbox_to_anchor(anchor, self.figure.transFigure)


def _legend(axes: "Axes", width: float) -> Any:
    """The legend of a panel, which has no place yet; None where nothing has a label."""
    handles, labels = _legend_entries(axes)
    if not handles:
        return None
    return axes.legend(
        handles,
        labels,
        loc="upper left",
        ncols=_legend_columns(labels, width),
        borderaxespad=0,
        borderpad=0,
        labelspacing=0.25,
        handlelength=2,
        columnspacing=1.2,
    )


def _names(axes: "Axes") -> list[str]:
    """The ticks of the vertical axis, where they are names and no numbers."""
    from matplotlib.ticker import FixedLocator

    if not isinstance(axes.yaxis.get_major_locator(), FixedLocator):
        return []
    return [tick.get_text() for tick in axes.get_yticklabels()]


def _legend_entries(axes: "Axes") -> tuple[Sequence[Any], Sequence[str]]:
    """Handles and labels; those that are no series come last."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: entry[1] == DISTURBED)
    shown = entries[:_MOST_ENTRIES]
    return [handle for handle, _ in shown], [label for _, label in shown]


def _legend_lines(axes: "Axes", width: float) -> int:
    labels = _legend_entries(axes)[1]
    return -(-len(labels) // _legend_columns(labels, width)) if labels else 0


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """As many columns as the longest label allows."""
    longest = max(map(len, labels)) * _LEGEND_LETTER + _LEGEND_MARK
    return max(1, int((width - 0.1) / longest))


def _png(figure: "Figure", dots_per_inch: int) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    figure.set_dpi(dots_per_inch)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(stream)
    return stream.getvalue()


def _svg(figure: "Figure") -> str:
    # The canvas itself: Figure.savefig draws everything twice.
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(stream, metadata=_NO_METADATA)
    return stream.getvalue()
