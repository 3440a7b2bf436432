"""Writes docs/llms.txt: the pages of the site and their first sentences, as plain text for programs that read it.

usage: python -m docs.tools.llms
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from docs.tools.hooks import ROOT, ROOT_PAGES

FILE = ROOT / "docs" / "llms.txt"


def text() -> str:
    """The file as it should be, from `nav` of mkdocs.yml."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    lines = [f"# {settings['site_name']}", "", f"> {settings['site_description']}.", "", "## Pages", ""]
    for title, page in pages(settings["nav"]):
        lines.append(f"- [{title}]({page.removesuffix('.md')}.html): {_first_sentence(page)}".removesuffix(": "))
    return "\n".join(lines) + "\n"


def pages(nav: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(title, page) of the navigation, from the top; the title of a section before those of its pages."""
    for entry in nav:
        for title, value in entry.items():
            if isinstance(value, str):
                yield title, value
            else:
                yield from ((f"{title}: {inner}", page) for inner, page in pages(value))


def _first_sentence(page: str) -> str:
    """The first sentence of the page's first paragraph, without markup; empty where it begins with something else."""
    source = ROOT / ROOT_PAGES.get(page, f"docs/{page}")
    paragraph = source.read_text("utf-8").split("\n\n")[1].strip()
    if re.match(r"[|#*:]|    ", paragraph):
        return ""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph.replace("\n", " "))
    return re.split(r"(?<=[.?:])\s(?=[A-Z`]|$)", re.sub(r"[`*]", "", plain), maxsplit=1)[0]


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
