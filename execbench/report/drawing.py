"""How every plot of a report is drawn: style, one fixed colour per arm, axes and legends, inline SVG.

SVG holds no date and fixed identifiers, so equal data gives equal bytes under one version of matplotlib.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from execbench.report.numbers import with_unit

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "execbench", "svg.fonttype": "none",  # text stays text: small, selectable
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.labelsize": 9, "xtick.labelsize": 8,
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "ytick.labelsize": 8,
    "legend.fontsize": 8, "legend.frameon": False, "hatch.linewidth": 0.7,
    "grid.color": "#e3e3e3", "grid.linewidth": 0.6,
    "figure.constrained_layout.w_pad": 0.08,  # outer tick labels of neighbours stay apart
}  # fmt: skip
WIDTH = 9.6
"""Of a figure, in inches."""
POINTS = 72
"""In an inch."""
LETTER = 0.62
"""Mean width of a letter of DejaVu Sans, in sizes of the font."""
LEGEND_ROW = 0.17
"""Height of a row of a legend, in inches."""


def palette(arms: Sequence[str]) -> dict[str, Any]:
    """Return a colour per arm, by its place in the order given; safe for the usual kinds of colour blindness."""
    import seaborn as sns

    colours = sns.color_palette("colorblind", 10)
    return {arm: colours[number % len(colours)] for number, arm in enumerate(arms)}


def hex_palette(arms: Sequence[str]) -> dict[str, str]:
    """Return the same colours as `#rrggbb`."""
    from matplotlib.colors import to_hex

    return {arm: to_hex(colour) for arm, colour in palette(arms).items()}


def lines(arms: Sequence[str], remarks: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Return how each arm's line is drawn, so that lines are told apart without colour and where they coincide.

    Colour, dashes and marker by the place of the arm; a line that is drawn later is thinner than those below it and has
    its markers elsewhere. `remarks` of some arms stand in the legend behind their names.
    """
    colours, last = palette(arms), max(len(arms) - 1, 1)
    return {
        arm: {"color": colours[arm], "linestyle": DASHES[number % len(DASHES)], "linewidth": 3.0 - 1.8 * number / last,
              "marker": MARKERS[number % len(MARKERS)], "markersize": 5.5, "markeredgecolor": "white",
              "markeredgewidth": 0.5, "markevery": (0.15 * number / len(arms), 0.15), "zorder": 2 + number / len(arms),
              "label": f"{arm} ({words})" if (words := (remarks or {}).get(arm)) else arm}
        for number, arm in enumerate(arms)
    }  # fmt: skip


def coinciding(panels: Mapping[str, Mapping[str, np.ndarray[Any, Any]]]) -> dict[str, str]:
    """Say of an arm whose line cannot be seen alone why: it is 0, or the same as an earlier arm's in all panels.

    `panels` has the values of each arm's line (NaN where it has none) by the name of the panel.
    """
    said: dict[str, str] = {}
    arms = list(next(iter(panels.values()), {}))
    for number, arm in enumerate(arms):
        zero = [name for name, of in panels.items() if not np.any(np.nan_to_num(of[arm]))]
        same = [other for other in arms[:number]
                if all(np.array_equal(of[arm], of[other], equal_nan=True) for of in panels.values())]  # fmt: skip
        if zero and len(zero) == len(panels):
            said[arm] = "0 throughout"
        elif same:
            said[arm] = f"same as {same[0]}"
        elif zero:
            said[arm] = f"0 {' and '.join(zero)}"
    return said


@contextmanager
def drawing(rows: int, columns: int, height: float, **kwargs: Any) -> Iterator[tuple[Figure, Any]]:
    """Make a figure in the style of the report; warnings of seaborn about its own use of libraries stay unseen."""
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), mpl.rc_context({**sns.axes_style("whitegrid"), **STYLE}):
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.subplots(rows, columns, **kwargs)


def svg(figure: Figure) -> str:
    """Return the figure as one <svg> element, without XML prologue and metadata."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def log_span(low: float, high: float, pad: float = 1.2, least: float = 3.0) -> tuple[float, float]:
    """Return limits of a logarithmic axis with room around `low` and `high` (both above 0), equal ones too.

    `pad` is the room as a factor on each side, `least` the least ratio of the limits.
    """
    room = max(pad, (least * low / high) ** 0.5)
    return low / room, high * room


def log_ticks(axis: XAxis | YAxis, words: Callable[[float], str], most: int = 7) -> None:
    """Label a logarithmic axis in words: its decades or, where those are below three, steps between them."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    low, high = sorted(axis.get_view_interval())
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        places = [step * 10.0**decade for decade in decades for step in steps]
        places = [place for place in places if low <= place <= high]
        if len(places) >= 3:
            break
    else:
        places = [place for place in MaxNLocator(6).tick_values(low, high) if low <= place <= high]
    places = places[:: -(-len(places) // most)]
    axis.set_ticks(places, [words(place) for place in places])
    axis.set_minor_locator(NullLocator())


def apart(axis: XAxis, places: Sequence[float], labels: Sequence[str], points: float) -> None:
    """Label places of an axis `points` (1/72 inch) long; of labels that would touch, the one to the right stays."""
    axis.set_ticks(places, labels)
    low, high = axis.get_transform().transform(np.array(sorted(axis.get_view_interval())))
    where = (axis.get_transform().transform(np.array(places, dtype=float)) - low) / (high - low) * points
    letter, shown, free = LETTER * 8, list(labels), np.inf
    for number in reversed(range(len(labels))):
        half = len(labels[number]) * letter / 2
        if where[number] + half > free:
            shown[number] = ""
        else:
            free = where[number] - half - letter / 2
    axis.set_ticks(places, shown)


def time_words(ns: float) -> str:
    """Return a time with its own unit."""
    return with_unit(ns, "time")


def percent_words(share: float) -> str:
    """Return a share (1 is all) in percent, without the sign."""
    return f"{share * 100:.4g}"


def plain(value: float, _: object = None) -> str:
    """Return the label of a tick: no powers of ten, thousands set apart."""
    return f"{value:,.10g}"


def say_empty(axes: Axes) -> None:
    """Write into a panel in which nothing is drawn that there is no figure."""
    axes.text(0.5, 0.5, "no figure", transform=axes.transAxes, ha="center", va="center", color="#5b6470", fontsize=8)


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend of `axes` below the figure, which grows by the rows it needs."""
    handles, labels = axes.get_legend_handles_labels()
    rows = legend(figure, handles, labels, "center", WIDTH)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (rows - 1))


def legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], side: str, width: float,
           title: str | None = None) -> int:  # fmt: skip
    """Put a legend no wider than `width` inches at a side of the lower edge, read row by row; return its rows."""
    count = len(labels)
    columns = next((n for n in range(count, 1, -1) if _legend_width(labels, n) <= width), 1)
    order = [number for column in range(columns) for number in range(column, count, columns)]  # filled by columns
    place: Any = f"outside lower {side}"
    figure.legend([handles[n] for n in order], [labels[n] for n in order], loc=place, ncols=columns,
                  title=title, title_fontsize=8, alignment="left", labelspacing=0.45)  # fmt: skip
    return -(-count // columns)


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Return the width in inches of a legend with so many columns, each as wide as its longest label."""
    longest = sum(max(len(label) for label in labels[column::columns]) for column in range(columns))
    return (longest * LETTER + columns * 5.2) * 8 / POINTS  # 5.2: line, room behind it and between columns
