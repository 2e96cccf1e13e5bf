"""What mkdocs is told beyond mkdocs.yml: generated pages, and pictures that take the page's colours."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))  # mkdocs runs this file by its path

from docs.hooks import reference  # noqa: E402 - after the path

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the decisions, of which each lies in a file of its own."""
    folder = Path(config.docs_dir) / "decisions"
    records = [{title: f"decisions/{name}"} for name, title, _ in reference.decisions(folder)]
    for section in config.nav or []:
        if "Decisions" in section:
            section["Decisions"] = [{"All": "decisions/index.md"}, {"Records": records}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made and not written."""
    local_yaml = (REPOSITORY / "conf" / "local.yaml").read_text(encoding="utf-8")
    pages = {
        "reference/config.md": reference.config_page(local_yaml),
        "reference/verbs.md": reference.verbs_page(),
        "reference/errors.md": reference.errors_page(),
        "decisions/index.md": reference.decisions_page(Path(config.docs_dir) / "decisions"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put pictures into the page itself, where the palette that the reader chose reaches them."""
    del files
    folder = (Path(config.docs_dir) / page.file.src_uri).parent

    def inlined(image: re.Match[str]) -> str:
        path = (folder / image["name"]).resolve()
        label = html.escape(html.unescape(image["alt"]), quote=True)
        drawn = path.read_text(encoding="utf-8").partition("<svg ")[2]
        return f'<svg role="img" aria-label="{label}" class="picture" {drawn}'

    return re.sub(r'<img alt="(?P<alt>[^"]*)" src="(?P<name>[\w/.-]+\.svg)" />', inlined, content)
