"""The documentation builds without a dead link, loads nothing from elsewhere, and its generated parts are true."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

import nemf
from docs.tools import docstrings, gallery, hooks, llms, protocols_page
from pipeline.datasets.registry import BUILT_IN
from pipeline.evaluation.protocols import PROTOCOLS

ROOT = Path(__file__).parents[2]


class _Links(HTMLParser):
    """What a page links to and what it loads, and the anchors it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in ("script", "img", "iframe") and "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and "href" in values:
            self.loaded.append(values["href"])
        self.anchors.add(values.get("id", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Links]:
    """The pages of the built site."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        # not --quiet: it would silence the warnings before --strict counts them
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr + built.stdout
    pages = {}
    for page in folder.rglob("*.html"):
        pages[page] = _Links()
        pages[page].feed(page.read_text("utf-8"))
    return pages


def test_every_link_within_the_site_leads_somewhere(site: dict[Path, _Links]):
    dead = set()
    for page, found in site.items():
        if page.name == "404.html":  # its links are those of the root of a server
            continue
        for link in [*found.links, *found.loaded]:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path and path != "." else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in site and anchor not in site[target].anchors):
                dead.add((page.name, link))
    assert dead == set()


def test_pages_load_nothing_from_elsewhere(site: dict[Path, _Links]):
    assert {link for found in site.values() for link in found.loaded if re.match(r"(https?:)?//", link)} == set()


def test_a_link_into_the_source_leads_to_the_source(site: dict[Path, _Links]):
    (protocols,) = (page for page in site if page.match("site/source/pipeline/evaluation/protocols.py.html"))
    assert "A rule for computing PCK from predictions." in protocols.read_text("utf-8")
    (folder,) = (page for page in site if page.match("site/source/schemas/index.html"))
    assert "pairs.py.html" in site[folder].links


@pytest.mark.parametrize(
    ("link", "led"),
    [
        ("[a](../nemf/matcher.py)", "[a](source/nemf/matcher.py.md)"),
        ("[a](../schemas)", "[a](source/schemas/index.md)"),
        ("[a](../nemf/absent.py)", "[a](../nemf/absent.py)"),
        ("[a](zoom.md#b)", "[a](zoom.md#b)"),
        ("[a](https://example.org/nemf)", "[a](https://example.org/nemf)"),
    ],
)
def test_links_into_the_source_are_led_to_its_pages(link: str, led: str):
    assert hooks.with_source_links(link, "index.md") == led


def test_a_page_in_a_folder_links_into_the_source():
    assert (
        hooks.with_source_links("[a](../../schemas/pairs.py)", "api/schemas.md") == "[a](../source/schemas/pairs.py.md)"
    )


def test_links_of_a_file_at_the_root_are_those_of_a_page():
    assert hooks.as_page("[a](docs/zoom.md#b) [c](schemas)") == "[a](zoom.md#b) [c](../schemas)"


def test_the_arguments_of_a_docstring_are_a_list():
    text = "Does it.\n\nroot: a folder,\n    or a URI.\nlimit: a number.\nReturns: nothing."
    shown = "Does it.\n\n\n* `root`: a folder,\n    or a URI.\n* `limit`: a number.\n\nReturns: nothing."
    assert docstrings.with_list(text, {"root", "limit"}) == shown


def test_the_protocols_page_is_made_from_the_protocols():
    assert protocols_page.FOLLOWS.keys() == PROTOCOLS.keys()
    assert protocols_page.PAGE.read_text("utf-8") == protocols_page.page(), "python -m docs.tools.protocols_page"


def test_the_protocols_page_has_every_data_set_and_no_other():
    table = protocols_page.PAGE.read_text("utf-8").split("## Which one")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if re.match(r"\| (`|\|)", line)]
    assert {name for first, _ in rows for name in re.findall(r"`([\w-]+)`", first)} == BUILT_IN.keys()
    assert {name for _, second in rows for name in re.findall(r"`([a-z][\w@-]*)`", second)} <= PROTOCOLS.keys()


def test_the_gallery_is_made_from_its_commands():
    """What the commands printed and drew is of the machine that drew it."""
    written = gallery.PAGE.read_text("utf-8")
    printed = re.findall(r"^```text\n(.*?)\n```$", written, re.MULTILINE | re.DOTALL)
    pictures = [shown.picture for shown in gallery.EXHIBITS]
    assert written == gallery.page(dict(zip(pictures, printed, strict=True))), "python -m docs.tools.gallery"


def test_llms_txt_lists_the_pages():
    assert llms.FILE.read_text("utf-8") == llms.text(), "python -m docs.tools.llms"


def test_links_and_pictures_of_the_readme_are_there():
    links = re.findall(r"\]\(([^)\s#]+)", (ROOT / "README.md").read_text("utf-8"))
    assert "docs/pictures/report.png" in links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == nemf.__version__
    assert citation["license"] == "Apache-2.0"
