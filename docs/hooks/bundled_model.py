"""The card of the bundled model, which lies beside its weights, as a page of the site."""

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ASSETS = "attrbind_exp/assets"
PAGES = {"bundled-model.md": "README.md", "bundled/samples.png": "bundled/samples.png"}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the card and its picture."""
    for uri, name in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=f"{ASSETS}/{name}"))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links between the card and the pages, which are right in the repository, made right on the site."""
    if page.file.src_uri == "bundled-model.md":
        return markdown.replace("](../../docs/", "](")
    return re.sub(rf"\]\(\.\./{ASSETS}/README\.md", "](bundled-model.md", markdown)
