"""The page of a result: one HTML file with everything in it, no script, nothing fetched from elsewhere."""

import base64
import html
from collections.abc import Sequence

from examples.deblurring.data.files import encode_png
from examples.deblurring.evaluation.pictures import Example, Panel
from examples.deblurring.evaluation.tables import Table, as_html

__all__ = ["render_page"]

ENLARGEMENT = 2

# Crops keep their size, whatever the window's: a picture that is scaled again would show the scaling.
STYLE = """
:root { color-scheme: light dark; --text: #1c1f23; --soft: #5c636b; --line: #d9dde2; --ground: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6e9; --soft: #9aa2ab; --line: #3a4047; --ground: #15181b; }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 112rem; color: var(--text); background: var(--ground);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; overflow-wrap: anywhere; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.notes { color: var(--soft); font-size: .87rem; margin: .4rem 0; max-width: 60rem; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; }
img { display: block; image-rendering: pixelated; max-width: none; }
.panels figure { overflow: hidden; max-width: 100%; }
figcaption { font-size: .87rem; margin-top: .3rem; overflow-wrap: anywhere; }
figcaption span { display: block; color: var(--soft); }
"""


def render_page(title: str, tables: Sequence[Table], rule: str, examples: Sequence[Example]) -> str:
    """Return the page.

    Args:
        title: of the page.
        tables: above the pictures.
        rule: how the images were chosen, and where the crops are; or why there is none. "" leaves the pictures out.
        examples: what is shown of them.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", *map(as_html, tables)]
    if rule:
        parts += ["<h2>Crops</h2>", f'<p class="notes">{html.escape(rule)}</p>', *map(_example, examples)]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _example(example: Example) -> str:
    panels = "\n".join(map(_panel, example.panels))
    return f'<h2>{html.escape(example.heading)}</h2>\n<div class="panels">\n{panels}\n</div>'


def _panel(panel: Panel) -> str:
    height, width = (ENLARGEMENT * side for side in panel.pixels.shape[-2:])
    data = base64.b64encode(encode_png(panel.pixels)).decode()
    label = html.escape(panel.label)
    return (
        f'<figure style="width: {width}px"><img src="data:image/png;base64,{data}" '
        f'width="{width}" height="{height}" alt="{label}">'
        f"<figcaption>{label}<span>{html.escape(panel.caption)}</span></figcaption></figure>"
    )
