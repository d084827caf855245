"""Draw the plots of a report as inline SVG that takes its colours and font from the page around it.

matplotlib draws with placeholder colours, which become CSS variables: one plot for light, dark and print. Text stays
text, so that it can be searched and read aloud. pyplot and its global figures are not used.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from dogbreed.report.analysis import Cells, Reliability
from dogbreed.report.reading import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, TRAIN, VALID = "#010101", "#010102", "#010103", "#010104", "#010105"
CSS_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", TRAIN: "--train", VALID: "--valid"}
RIGHT_RGB, WRONG_RGB = (47, 111, 184), (214, 96, 36)  # of the confusion matrix; read well on white and on near-black

ALL_LABELS_UP_TO = 40  # classes; with more, only every n-th breed is labelled
NUMBERS_UP_TO = 12  # classes; a larger matrix has no room for counts
MATRIX_PX = 520  # side of a large matrix, before the page scales it
MAX_MATRIX_CELLS = 800  # per side; more classes than this are shown in blocks
MAX_TOOLTIPS = 2000


def curves(
    epochs: Floats, lines: Mapping[str, Floats], *, best: float | None, percent: bool, title: str, name: str
) -> Markup:
    """Plot values by epoch. lines: "train" and "val", each [epochs]; NaN, a missing value, leaves a gap in the line.

    best: the epoch whose weights were kept. name: unique in the page.
    """

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        axes = figure.add_axes((0.105, 0.135, 0.875, 0.765))
        for label, values in lines.items():
            marker = "o" if epochs.size <= 25 else None  # a single point between two gaps is invisible as a line
            colour, dashes = (TRAIN, (4, 1.8)) if label == "train" else (VALID, (None, None))
            axes.plot(epochs, values, color=colour, dashes=dashes, marker=marker, markersize=3, lw=1.8, label=label)
        if best is not None and "val" in lines:
            axes.axvline(best, color=MUTED, lw=0.8, ls=":", zorder=0)
            axes.plot(
                [best], lines["val"][epochs == best], "o", ms=9, mfc="none", mec=VALID, mew=1.5,
                label=f"best epoch ({best:.0f})",
            )  # fmt: skip
        finite = np.concatenate([values[np.isfinite(values)] for values in lines.values()] or [np.zeros(0)])
        top = float(finite.max(initial=0.0))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="\u202f%"))
        axes.set_ylim(0, (min(1.02, top * 1.1) if percent else top * 1.08) or 1)
        axes.set_xlim(float(epochs[0]) - 0.5, float(epochs[-1]) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=3, columnspacing=1.4, handlelength=1.8)

    described = [f"{label}: {values[np.isfinite(values)][-1]:.4g} at the end" for label, values in lines.items()]
    return svg(draw, 400, 270, name, title, f"{epochs.size} epochs; " + "; ".join(described))


def reliability_diagram(bins: Reliability, name: str) -> Markup:
    """Plot the accuracy by predicted probability, above the number of photos in each bin."""

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import PercentFormatter

        above = figure.add_axes((0.145, 0.325, 0.815, 0.66))
        below = figure.add_axes((0.145, 0.1, 0.815, 0.19), sharex=above)
        width = bins.edges[1] - bins.edges[0]
        middle = bins.edges[:-1] + width / 2
        above.plot([0, 1], [0, 1], color=MUTED, lw=1, dashes=(4, 3))
        held = bins.count > 0
        above.bar(middle[held], bins.accuracy[held], width * 0.86, color=VALID, alpha=0.22)
        above.vlines(bins.confidence[held], bins.low[held], bins.high[held], color=VALID, lw=1.2)
        above.plot(bins.confidence[held], bins.accuracy[held], "o", color=VALID, ms=5)
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="right answers")
        above.tick_params(labelbottom=False)
        below.bar(middle, bins.count, width * 0.86, color=MUTED, alpha=0.45)
        for x, count in zip(middle[held], bins.count[held], strict=True):
            below.text(x, count, f"{count:,}", ha="center", va="bottom", fontsize=8, color=MUTED)
        below.set(ylim=(0, max(1, int(bins.count.max())) * 1.35), xlabel="stated probability", ylabel="photos")
        below.set_yticks([])
        below.grid(False)
        for axes in (above.xaxis, above.yaxis):
            axes.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol="\u202f%"))

    rows = [
        f"{low:.0%} to {low + 0.1:.0%}: {count} photos, {right:.0%} right"
        for low, count, right in zip(bins.edges[:-1], bins.count, bins.accuracy, strict=True)
        if count
    ]
    return svg(draw, 400, 385, name, "Reliability diagram", "; ".join(rows))


def confusion_matrix(cells: Cells, labels: Sequence[str], name: str) -> Markup:
    """Plot the confusion matrix: a row per true breed, summing to 1, and a column per predicted one.

    Correct cells are blue, mistakes orange. Hovering over a cell shows its breeds and photos.
    """
    classes = len(labels)
    block = math.ceil(classes / MAX_MATRIX_CELLS)
    side = math.ceil(classes / block)
    numbers = classes <= NUMBERS_UP_TO
    cell_px = max(MATRIX_PX / side, 15 if classes <= ALL_LABELS_UP_TO else 0) if classes > 6 else 76
    matrix_px = cell_px * side
    font_px = 9.0 if classes > NUMBERS_UP_TO else 10.5
    step = 1 if classes <= ALL_LABELS_UP_TO else math.ceil(classes / 26)
    named = range(0, classes, step)
    short = [_shorten(labels[index]) for index in named]
    margin = 26 + font_px * 0.56 * max((len(label) for label in short), default=0)
    width, height = margin + matrix_px + 14, 10 + matrix_px + margin

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((margin / width, margin / height, matrix_px / width, matrix_px / height))
        picture = _matrix_picture(cells, side, block, faint=numbers)
        axes.imshow(picture, interpolation="none", aspect="auto", extent=(0, classes, classes, 0))
        axes.grid(False)
        middle = [index + 0.5 for index in named]
        axes.set_xticks(middle, short, rotation=90, rotation_mode="anchor", ha="right", va="center", fontsize=font_px)
        axes.set_yticks(middle, short, fontsize=font_px)
        axes.tick_params(color=RULE, length=3, pad=3)
        axes.spines[:].set_visible(True)
        if numbers:
            for cell in range(len(cells.count)):
                x, y = cells.predicted[cell] + 0.5, cells.true[cell] + 0.5
                _number(axes, x, y, int(cells.count[cell]), float(cells.share[cell]), small=classes > 6)
        axes.set_ylabel("true breed", labelpad=4)
        axes.set_xlabel("predicted breed", labelpad=4)

    right = int(cells.count[cells.true == cells.predicted].sum())
    description = f"{classes} breeds; {right} of {int(cells.count.sum())} photos are on the diagonal (correct)"
    scale = matrix_px / max(classes, 1)
    tooltips = _tooltips(cells, labels, f"translate({margin:.2f} 10) scale({scale:.5f})")
    return svg(draw, width, height, name, "Confusion matrix", description, tooltips)


def _matrix_picture(cells: Cells, side: int, block: int, *, faint: bool) -> Any:
    """Draw the matrix as uint8 RGBA [side, side, 4]; opacity grows with the square root of the share, so that single
    mistakes stay visible.

    faint: keep text on top of the darkest cell readable.
    """
    opacity = np.zeros((side, side))
    shade = np.where(cells.true == cells.predicted, 0.16, 0.32)
    shade = (shade + (1 - shade) * np.sqrt(cells.share)) * (0.62 if faint else 1.0)
    np.maximum.at(opacity, (cells.true // block, cells.predicted // block), shade)
    picture = np.zeros((side, side, 4), np.uint8)
    picture[..., :3] = WRONG_RGB
    picture[np.arange(side), np.arange(side), :3] = RIGHT_RGB
    picture[..., 3] = np.rint(opacity * 255)
    return picture


def _number(axes: "Axes", x: float, y: float, count: int, share: float, *, small: bool) -> None:
    if small:
        axes.text(x, y, f"{count:,}", ha="center", va="center", fontsize=10)
        return
    axes.text(x, y - 0.08, f"{count:,}", ha="center", va="center", fontsize=15)
    axes.text(x, y + 0.24, f"{share:.0%}".replace("%", "\u202f%"), ha="center", va="center", fontsize=9)


def _tooltips(cells: Cells, labels: Sequence[str], transform: str) -> str:
    totals = np.rint(cells.count / cells.share).astype(int)
    marks = []
    for n in np.argsort(cells.true == cells.predicted, kind="stable")[:MAX_TOOLTIPS]:  # mistakes first
        true, predicted = cells.true[n], cells.predicted[n]
        outcome = "correct" if true == predicted else f"predicted as {labels[predicted]}"
        tooltip = escape(f"{labels[true]} {outcome}: {cells.count[n]} of {totals[n]}")
        marks.append(f'<path d="M{predicted} {true}h1v1h-1z"><title>{tooltip}</title></path>')
    return f'<g class="tooltips" transform="{transform}">{"".join(marks)}</g>'


def _shorten(label: str, length: int = 30) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def svg(
    draw: Callable[["Figure"], None],
    width_px: float,
    height_px: float,
    name: str,
    title: str,
    description: str,
    more: str = "",
) -> Markup:
    """Return the figure that `draw` fills as an <svg> element, scaled by the page.

    name: unique in the page. title, description: for those who hear the page. more: SVG to overlay, in pixels.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # the same run gives the same file
        "text.parse_math": False,  # a breed may be called $x$
        "text.usetex": False,
        "text.color": INK,
        "font.family": "DejaVu Sans",  # only for measuring, and bundled with matplotlib; the page shows its own font
        "font.size": 10,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": RULE,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 10,
    }
    content = io.StringIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the page's font may have it
        figure = Figure(figsize=(width_px / 72, height_px / 72))  # SVG counts 72 to an inch
        draw(figure)
        figure.savefig(
            content, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    body = content.getvalue().partition("<svg")[2].partition(">")[2].rpartition("</svg>")[0]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', body))
    body = re.sub(r"<[a-z][^>]*>", lambda tag: _adopt(tag[0], name, used), body)
    return Markup(
        f'<svg class="plot" role="img" style="--width:{width_px:.0f}px" viewBox="0 0 {width_px:.2f} {height_px:.2f}" '
        f'aria-labelledby="{name}-title {name}-description"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-description">{escape(description)}</desc>{body}{more}</svg>'
    )


def _adopt(tag: str, name: str, used: set[str]) -> str:
    """Rewrite one of matplotlib's tags with ids that are unique in the page, and the page's colours and font."""
    tag = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r'((?:href="|url\()#)', rf"\1{name}-", tag)
    tag = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", tag)  # matplotlib before 3.9 writes this
    tag = re.sub(r"font-family: [^;\"]*(; )?", "", tag)
    return re.sub(r"#0101\d\d\b", lambda m: f"var({CSS_VARIABLES[m[0]]})" if m[0] in CSS_VARIABLES else m[0], tag)
