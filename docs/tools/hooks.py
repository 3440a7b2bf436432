"""Hooks of MkDocs: pages that link into the source tree, and pages made of files at the root of the repository.

The pages link to source files as they lie, `../pipeline/io/storage.py`, which works where the repository is read. In
the site such a link leads to a page that shows the file, or lists the folder. A link to what is not there stays as it
is, and the strict build ends at it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages of the site that are files at the root."""

_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
_PICTURES = (".png", ".jpg")
_LANGUAGES = {".py": "python", ".md": "markdown", ".toml": "toml", ".yaml": "yaml", ".sh": "bash", ".ipynb": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages made of root files, and one for everything in the source tree that a page links to."""
    for name, source in ROOT_PAGES.items():
        files.append(File.generated(config, name, content=as_page((ROOT / source).read_text("utf-8"))))
    linked = {
        target
        for file in list(files.documentation_pages())
        for target in linked_sources(file.content_string, file.src_uri)
    }
    inside = {f"{folder}/{path.name}" for folder in linked for path in _files_of(ROOT / folder)}
    for path in sorted(linked | inside):
        if Path(path).suffix in _PICTURES:
            files.append(File.generated(config, page_of(path), abs_src_path=str(ROOT / path)))
        else:
            page = File.generated(config, page_of(path), content=source_page(path), inclusion=InclusionLevel.NOT_IN_NAV)
            files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links into the source tree led to the pages of these sources."""
    return with_source_links(markdown, page.file.src_uri)


def as_page(text: str) -> str:
    """The text of a file at the root, with links as a page in docs/ has them."""

    def moved(link: re.Match[str]) -> str:
        target = link[2].removeprefix("docs/") if link[2].startswith("docs/") else f"../{link[2]}"
        return f"{link[1]}{target}{link[3] or ''}{link[4]}"

    return _LINK.sub(moved, text)


def linked_sources(markdown: str, src_uri: str) -> set[str]:
    """The paths, from the root of the repository, that a page links to outside docs/, if they are there."""
    return {path for link in _LINK.finditer(markdown) if (path := _source(link[2], src_uri)) is not None}


def with_source_links(markdown: str, src_uri: str) -> str:
    """The page with every link to a source led to the page of that source."""

    def led(link: re.Match[str]) -> str:
        path = _source(link[2], src_uri)
        if path is None:
            return link[0]
        return f"{link[1]}{posixpath.relpath(page_of(path), posixpath.dirname(src_uri) or '.')}{link[4]}"

    return _LINK.sub(led, markdown)


def page_of(path: str) -> str:
    """The page that shows the file or folder at `path`, a path from the root; a picture is there as it is."""
    if Path(path).suffix in _PICTURES:
        return f"source/{path}"
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def source_page(path: str) -> str:
    """A page that shows a file as it is, or lists a folder."""
    head = f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n\n# {path}\n\n"
    place = ROOT / path
    if place.is_dir():
        return head + "".join(f"* [{file.name}]({file.name}.md)\n" for file in _files_of(place))
    return f"{head}~~~~~{_LANGUAGES.get(place.suffix, 'text')}\n{place.read_text('utf-8')}\n~~~~~\n"


def _source(target: str, src_uri: str) -> str | None:
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(src_uri), target))
    outside = not path.startswith(("docs/", "../", "/"))
    return path if outside and (ROOT / path).exists() else None


def _files_of(folder: Path) -> list[Path]:
    """The source files directly in a folder, by name; none for a file."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in _LANGUAGES)
