"""Settings of the documentation site: `sphinx-build -W --keep-going -b html docs docs/_build`."""

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import tafm_loss  # noqa: E402

project = "tafm-loss"
author = "The tafm-loss contributors"
project_copyright = author
version = release = tafm_loss.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

# The pages are plain Markdown, so that they can be read in the repository too.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

# Docstrings say `name` for code, as the pages do.
default_role = "code"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
nitpicky = False

html_theme = "furo"
html_title = f"tafm-loss {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp"

# Files of the repository that are pages of the site too.
PAGES = {
    "examples/README.md": "docs/guides/examples.md",
    "examples/deblurring/README.md": "docs/guides/networks.md",
    "examples/integrations/README.md": "docs/guides/integrations.md",
}
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def skip_shown_elsewhere(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave names of the package itself, which the pages list one by one, out of what a module has besides."""
    return True if what == "module" and name in tafm_loss.__all__ else None


def move_links(app: Any, path: Path, docname: str, content: list[str]) -> None:
    """Let relative links of an included file point where they point in the repository."""
    page = (ROOT / "docs" / app.env.docname).parent  # MyST gives the last part of the name alone

    def moved(match: re.Match[str]) -> str:
        target = os.path.relpath((ROOT / "docs" / path).parent / match[1], ROOT)
        return f"]({os.path.relpath(ROOT / PAGES.get(target, target), page)}"

    content[0] = LINK.sub(moved, content[0])


def setup(app: Any) -> None:
    """Connect the hooks."""
    app.connect("include-read", move_links)
    app.connect("autodoc-skip-member", skip_shown_elsewhere)
