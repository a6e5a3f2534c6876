"""What `make docs` adds to the pages of this folder: README as the first, and what lies beside it and is linked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
BESIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE")


def on_files(files: Any, config: Any) -> Any:
    """Adds the files from outside this folder."""
    for name in BESIDE:
        place = "index.md" if name == "README.md" else name
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links between this folder and the one around it, which the site has as one."""
    return markdown.replace("](docs/", "](").replace("](../", "](")
