"""Charts: drawn by matplotlib, written as SVG that takes its colours from the page.

The same chart is the same bytes: no dates, no random ids. Labels that came from outside go through `words`.
"""

import io
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from pipeline.formats import short
from pipeline.safe_html import trusted
from pipeline.untrusted import visible

# Colours stand for the page's variables, so that light and dark are one drawing.
_VARIABLES: Final = {
    "#0000f1": "var(--ink)", "#0000f2": "var(--soft)", "#0000f3": "var(--line)", "#0000f4": "var(--one)",
    "#0000f5": "var(--two)", "#0000f6": "var(--three)", "#0000f7": "var(--paper)",
    "#0000f8": "var(--strong)", "#0000f9": "var(--weak)", "#0000fa": "var(--none)",
    **{f"#0001f{n}": f"var(--s{n})" for n in range(8)},
}  # fmt: skip
INK, SOFT, LINE, ONE, TWO, THREE, PAPER, STRONG, WEAK, NONE, *SERIES = _VARIABLES
_STYLE: Final = {
    "svg.hashsalt": "openwit", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 10.5,
    "axes.edgecolor": SOFT, "axes.labelcolor": SOFT, "text.color": INK, "xtick.color": SOFT,
    "ytick.color": SOFT, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": LINE, "grid.linewidth": 0.8,
    "axes.axisbelow": True, "ytick.major.size": 0, "xtick.major.size": 3, "axes.linewidth": 0.8,
    "legend.frameon": False, "legend.fontsize": 10.5, "lines.linewidth": 2.0, "figure.facecolor": "none",
    "axes.facecolor": "none", "axes.titlesize": 10.5, "axes.unicode_minus": False, "text.parse_math": False,
}  # fmt: skip
SIZE: Final = (4.9, 3.1)  # inches of 72 units: one column of a telephone
_LEFT, _RIGHT, _BOTTOM, _TOP, _LINE_HEIGHT = 54, 18, 35, 8, 15  # units; left of the axes is room for 1.25M
_SVG: Final = "{http://www.w3.org/2000/svg}"
_PAGE: Final = Path(__file__).with_name("page.css")
_TITLE: Final = "title:"
_NO_XML: Final = dict.fromkeys((0xFFFE, 0xFFFF), "\ufffd")
_DROPPED: Final = frozenset({"font", "font-family", "font-variant", "font-stretch", "font-style"})


def draw(
    paint: Callable[[Figure], None], label: str, name: str = "", *,
    size: tuple[float, float] = SIZE, lines: int | None = None,
) -> Markup:  # fmt: skip
    """Return an SVG element that `paint` draws into; screen readers read `label` aloud.

    name: keeps its ids apart from those of the page's other charts; by default it follows from the drawing.
    size: width and height in inches of 72 units. lines: of text above axes whose labels are short numbers,
    which have room of their own; else the layout measures all labels, as long as the drawing takes.
    """
    width, height = (72 * inches for inches in size)
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):  # type: ignore[dict-item]
        figure = Figure(figsize=size, dpi=72, layout="constrained" if lines is None else None)
        if lines is not None:
            figure.subplots_adjust(
                left=_LEFT / width, right=1 - _RIGHT / width, bottom=_BOTTOM / height,
                top=1 - (_TOP + _LINE_HEIGHT * lines) / height, hspace=0.17,
            )  # fmt: skip
        paint(figure)
        sink = io.StringIO()
        # Not savefig, which draws everything once more beforehand, to no effect here.
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(sink, metadata=metadata)  # type: ignore[no-untyped-call]
    drawn = sink.getvalue()
    return trusted(inline(drawn, label, name or f"c{zlib.crc32(drawn.encode()):08x}"))


def picture(paint: Callable[[Figure], None], label: str, size: tuple[float, float] = SIZE) -> str:
    """Return a whole SVG file that `paint` draws into, in the colours of our pages."""
    colours, _, _ = _PAGE.read_text(encoding="utf-8").partition("* {")
    svg = draw(paint, label, "p", size=size)
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{colours}</style>{rest}\n'


def inline(svg: str, label: str, name: str) -> str:
    """Return matplotlib's SVG as an element for HTML, without style attributes, which the page forbids."""
    root = ET.fromstring(svg)  # noqa: S314 - our own drawing
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag.endswith(("metadata", "style"))]:
            parent.remove(child)
    for node in list(root.iter()):
        if (gid := node.get("id", "")).startswith(_TITLE):
            title = ET.Element("title")
            title.text = gid.removeprefix(_TITLE)
            node.insert(0, title)
            del node.attrib["id"]
    for node in root.iter():
        node.tag = node.tag.removeprefix(_SVG)
        node.tail = None
        style = node.attrib.pop("style", "")
        for declaration in filter(None, (part.strip() for part in style.split(";"))):
            key, _, value = (part.strip() for part in declaration.partition(":"))
            if key not in _DROPPED:
                node.set(key, value)
            elif key == "font" and (size := re.search(r"([0-9.]+)px", value)):
                node.set("font-size", size[1])
        for key, value in list(node.attrib.items()):
            if key.startswith("{"):  # xlink:href
                del node.attrib[key]
                key = key.partition("}")[2]
            if key in ("fill", "stroke"):
                value = _VARIABLES.get(value, value)
            if key == "href":
                value = f"#{name}-{value[1:]}"
            value = value.replace("url(#", f"url(#{name}-")
            node.set(key, f"{name}-{value}" if key == "id" else value)
    referenced = set(re.findall(rf"{name}-[\w-]+", " ".join(
        value for node in root.iter() for key, value in node.attrib.items() if key != "id"
    )))  # fmt: skip
    for node in root.iter():
        if node.get("id") not in referenced:
            node.attrib.pop("id", None)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ET.tostring(root, encoding="unicode")


def explain(artist: Artist, text: str) -> None:
    """Give something drawn the text that a page shows where the mouse rests on it."""
    artist.set_gid(f"{_TITLE}{words(text, 300)}")


def words(text: str, longest: int = 60) -> str:
    """Return text that came from outside as it may stand in a drawing: visible, and characters of XML."""
    return visible(text, longest).translate(_NO_XML)


def short_axis(axis: Axis) -> None:
    """Label an axis with short numbers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def percent_axis(axis: Axis) -> None:
    """Label an axis of shares, 0 to 1, in percent."""
    axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
