"""A small kit for self-contained HTML pages: text, tables, and Matplotlib figures as inline SVG."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Drawn in these, then replaced in the SVG, so that figures follow the light or dark page.
INK, RULE = "#0a0b0c", "#0a0b0d"
BLUE, GREY, ORANGE, GREEN, RED = "#3f7fd6", "#8b94a3", "#dd8a2e", "#2f9e74", "#d2505f"
SERIES = (BLUE, ORANGE, GREEN, "#8f6bc4", RED, GREY)

_CSS = """
:root { --ink: #1b2430; --soft: #5b6675; --line: #dfe3e8; --paper: #ffffff; --tint: #f4f6f9;
  --ok: #2f9e74; --notice: #b97614; --warning: #c93f50; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b4; --line: #333b47;
  --paper: #14181e; --tint: #1c222a; --ok: #4fbf93; --notice: #dfa246; --warning: #ee7482; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 60rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, "Segoe UI", "Noto Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.lead { font-size: 1.15rem; background: var(--tint); border-left: 4px solid #3f7fd6;
  padding: .9rem 1.1rem; border-radius: 0 6px 6px 0; max-width: none; margin: 1.2rem 0; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.strong td { font-weight: 650; }
.bar { display: inline-block; height: .7rem; background: #3f7fd6; border-radius: 2px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
figure { margin: 1rem 0; break-inside: avoid; }
figure svg, figure img { width: 100%; height: auto; display: block; }
pre { background: var(--tint); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto;
  font-size: .88rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--tint); border-radius: 8px; padding: .7rem 1.1rem; min-width: 7.5rem; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; }
.tile span { color: var(--soft); font-size: .85rem; }
.finding { border-left: 4px solid var(--line); padding: .1rem 0 .1rem 1rem; margin: .9rem 0;
  break-inside: avoid; }
.finding p { margin: .15rem 0; }
.finding small { text-transform: uppercase; letter-spacing: .06em; font-weight: 700; }
.ok { border-color: var(--ok); } .ok small { color: var(--ok); }
.notice { border-color: var(--notice); } .notice small { color: var(--notice); }
.warning { border-color: var(--warning); } .warning small { color: var(--warning); }
@media print { body { max-width: none; padding: 0; font-size: 11pt; }
  h2 { break-after: avoid; } .wide { overflow: visible; } }
"""


class Html(str):
    """Text that is markup already; every plain `str` given to this kit is escaped."""


def escape(text: object) -> Html:
    """Make any value safe to stand in a page; `Html` passes unchanged."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def page(title: str, parts: Sequence[Html], *, subtitle: str = "") -> str:
    """Join the parts into one document that needs no other file."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="soft">{escape(subtitle)}</p>\n'
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def heading(text: str) -> Html:
    """A section's title."""
    return Html(f"<h2>{escape(text)}</h2>")


def paragraph(text: str, *, kind: str = "") -> Html:
    """Running text; `kind` is "lead" for the answer of the page, "soft" for small print."""
    return Html(
        f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"
    )


def code(text: str) -> Html:
    """A command or a file's text, as typed."""
    return Html(f"<pre><code>{escape(text)}</code></pre>")


def tiles(facts: Sequence[tuple[str, str]]) -> Html:
    """A row of large figures, each with what it counts: (figure, label)."""
    cells = (
        f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for v, k in facts
    )
    return Html(f'<div class="tiles">{"".join(cells)}</div>')


def finding(severity: str, title: str, detail: str, remedy: str = "") -> Html:
    """One finding of a check, coloured by its severity: ok, notice or warning."""
    return Html(
        f'<div class="finding {escape(severity)}"><small>{escape(severity)}</small>'
        f"<p><b>{escape(title)}</b></p><p>{escape(detail)}</p>"
        + (f'<p class="soft">What to do: {escape(remedy)}</p>' if remedy else "")
        + "</div>"
    )


def table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    strong: Sequence[int] = (),
) -> Html:
    """A table; a column whose cells are all numbers or empty is set to the right.

    Args:
        strong: numbers of the rows to stress.
    """
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    head = "".join(_cell("th", h, right=right) for h, right in zip(header, numeric, strict=True))
    body = "".join(
        f'<tr class="strong">{cells}</tr>' if i in strong else f"<tr>{cells}</tr>"
        for i, row in enumerate(rows)
        for cells in ["".join(_cell("td", c, right=n) for c, n in zip(row, numeric, strict=True))]
    )
    words = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Html(
        f'<div class="wide"><table>{words}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(tag: str, content: object, *, right: bool) -> str:
    mark = ' class="number"' if right else ""
    return f"<{tag}{mark}>{escape(content)}</{tag}>"


def _is_number(content: object) -> bool:
    text = str(content).partition("<br>")[0].replace(",", "").strip("%×+-–− ").replace(" ", "")
    return isinstance(content, int | float) or not text or text.replace(".", "", 1).isdigit()


def bar(share: float) -> Html:
    """A bar inside a table cell, for shares whose names no chart font may hold."""
    width = round(100 * min(max(share, 0.0), 1.0), 1)
    return Html(f'<span class="bar" style="width:{width / 8:.2f}rem"></span>')


def chart(width: float = 9.0, height: float = 3.6) -> tuple[Figure, Axes]:
    """An empty figure in the page's style, in inches; draw text in INK."""
    drawing = Figure(figsize=(width, height), layout="constrained")
    axes = drawing.add_subplot()
    dress(axes)
    return drawing, axes


def dress(axes: Axes) -> None:
    """Give axes the page's style: a second pair beside those of `chart` needs it too."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=INK, labelsize=9.5, length=0)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def legend(axes: Axes) -> None:
    """Name the series of a chart above it, in one row."""
    axes.legend(
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=6,
    )


def label(text: object) -> str:
    """A caller's name, safe as chart text: no formulas, no letters the chart font lacks."""
    return str(text).encode("latin-1", "replace").decode("latin-1").replace("$", r"\$")


def figure(drawing: Figure, *, alt: str, caption: str = "", raster: bool = False) -> Html:
    """A figure inside the page: SVG, or a PNG where there are very many points.

    Args:
        alt: what the figure shows, for readers who do not see it.
    """
    image = _png(drawing, alt) if raster else _svg(drawing, alt)
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{image}{words}</figure>")


def _svg(drawing: Figure, alt: str) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "steerec"}):  # the same page for the same data
        drawing.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(RULE, "var(--line)")
    return f'<svg role="img" aria-label="{escape(alt)}"' + text[len("<svg") :]


def _png(drawing: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=160, facecolor="white")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
