"""Puts the tables of benchmarks/results/*.json into the pages of the documentation, between their markers.

Each result file NAME.json holds {"table": {"columns": [...], "rows": [[...]], "caption": ...}, "metadata": {"machine",
"commit", "command", ...}}; its block in a page is <!-- table:NAME --> ... <!-- /table -->. Run it after a benchmark:

    python benchmarks/tables.py            # rewrites the blocks
    python benchmarks/tables.py --check    # fails if a page says anything else than the result files
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/results/*.md", "examples/deblurring/README.md", "examples/integrations/README.md")
BLOCK = re.compile(r"(?P<head><!-- table:(?P<name>[\w-]+) -->\n).*?(?P<tail><!-- /table -->)", re.DOTALL)
NUMBER = re.compile(r"[+-]?\d")
MARKER = re.compile(r"<!-- table:([\w-]+) -->")
NO_RESULT = "*Not measured yet.*\n"


def fill(text: str, results: Path) -> str:
    """Return `text` with every block replaced by the table of its result file."""
    names = MARKER.findall(text)
    blocks = [match["name"] for match in BLOCK.finditer(text)]
    if names != blocks:
        raise ValueError(f"blocks must open and close one after the other; opened {names}, complete {blocks}")
    return BLOCK.sub(lambda match: match["head"] + render(results / f"{match['name']}.json") + match["tail"], text)


def render(path: Path) -> str:
    """Return a result file's table as Markdown, with its caption and how to get it again."""
    if not path.exists():
        return NO_RESULT
    result = json.loads(path.read_text())
    table, metadata = result["table"], result["metadata"]
    columns, rows = table["columns"], table["rows"]
    if ragged := [row for row in rows if len(row) != len(columns)]:
        raise ValueError(f"{path}: a row must have {len(columns)} cells, got {ragged[0]}")
    numbers = [index > 0 and any(NUMBER.match(str(row[index])) for row in rows) for index in range(len(columns))]
    rule = ["---:" if number else "---" for number in numbers]
    lines = [_row(columns), _row(rule), *(_row(row) for row in rows)]
    commit, *changed = str(metadata["commit"]).split("-")
    origin = f"`{metadata['command']}`, {metadata['machine']}, commit {'-'.join([commit[:8], *changed])}."
    caption = table.get("caption", "").strip()
    return "\n".join(["", *lines, "", f"{caption} {origin}".strip(), "", ""])


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def check_placed(texts: list[str], results: Path) -> None:
    """Raise ValueError for a result file that none of the texts has a block for."""
    names = {name for text in texts for name in MARKER.findall(text)}
    if unplaced := sorted(path.stem for path in results.glob("*.json") if path.stem not in names):
        raise ValueError(f"no page has a block for the result files {', '.join(unplaced)}: <!-- table:NAME -->")


def main() -> int:
    """Fill or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is out of date")
    check = parser.parse_args().check
    results = ROOT / "benchmarks" / "results"
    texts = {path: path.read_text() for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))}
    check_placed([*texts.values()], results)
    filled = {path: fill(text, results) for path, text in texts.items()}
    for path, text in filled.items():
        if check and NO_RESULT in text:
            print(f"{path} has a table that is not measured yet: run its benchmark", file=sys.stderr)
            return 1
        if check and text != texts[path]:
            print(f"{path} differs from benchmarks/results: run python benchmarks/tables.py", file=sys.stderr)
            return 1
        if text != texts[path]:
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_text(text)
            temporary.replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
