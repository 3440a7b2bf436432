"""The report as a reader sees it, in headless Chromium. Not part of `make test`: run `make test-browser`."""

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.keypoint_errors import MATCH_COLUMNS
from pipeline.evaluation.metrics import write_metrics
from pipeline.evaluation.protocols import protocol
from pipeline.io.manifest import read_pairs
from pipeline.report.page import render_report
from pipeline.runs.flow_codec import encode_flow
from pipeline.runs.parts import read_matches, write_part
from schemas.matches import MATCHES
from schemas.pairs import PAIRS

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH: apt-get install chromium")

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
POINTS = [[10.0, 10.0], [50.0, 10.0], [10.0, 30.0], [50.0, 30.0]]
CATEGORIES = [f"{name}-with-a-rather-long-name/of a kind" for name in ("ape", "bee", "cat", "dog", "elk")]


@pytest.fixture(scope="module")
def page_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a planted run that has every part of a report."""
    folder = tmp_path_factory.mktemp("report")
    for name, grey in (("a.png", 90), ("b.png", 160)):
        Image.fromarray(np.full((40, 60, 3), grey, np.uint8)).save(folder / name)
    rng = np.random.default_rng(0)
    pairs, rows = [], []
    for index in range(60):
        pair: dict[str, Any] = {
            "pair_id": f"a-pair-of-two-images:{index}",
            "source_uri": "a.png",
            "target_uri": "b.png",
        }
        pair |= {
            "dataset": "toy",
            "category": CATEGORIES[index % 5],
            "occlusion": index % 4,
            "scale_variation": index % 3,
        }
        pair |= {"seen_in_training": index % 7 == 0, "source_xy_px": POINTS, "target_xy_px": POINTS}
        pair |= {"source_box_xyxy": [0, 0, 60, 40], "target_box_xyxy": [0, 0, 60, 40]}
        row = {"pair_id": pair["pair_id"], "direction": "source_to_target", "attempt": 1, "status": "ok"}
        row |= {"matcher": "planted", "fingerprint": "f00d", "query_hw": [40, 60], "reference_hw": [40, 60]}
        row |= {"milliseconds": {"decode": 2.0, "match": 8.0}, "query_xy_px": POINTS}
        off_px = rng.exponential(6, 4)
        row |= {"reference_xy_px": (np.array(POINTS) + off_px[:, None]).tolist(), "point_confidence": np.exp(-off_px)}
        if index % 9 == 4:
            row |= {"status": "error", "error_stage": "decode", "error_kind": "truncated", "error_message": "x" * 200}
        else:
            row |= encode_flow(rng.normal(0, 5, (40, 60, 2)))
        pairs.append(pair)
        rows.append(row)
    files = [str(folder / name) for name in ("metrics.parquet", "run", "pairs.parquet")]
    pq.write_table(pa.Table.from_pylist(pairs, PAIRS), files[2])
    write_part(files[1], pa.Table.from_pylist(rows, MATCHES))
    protocols = [protocol("spair"), protocol("pf-pascal@256")]
    metrics = evaluate(read_matches(files[1], MATCH_COLUMNS), read_pairs(files[2]), protocols, replicates=100)
    write_metrics(files[0], metrics)
    html = render_report(*files, image_root=str(folder))
    (folder / "report.html").write_text(html, "utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


def _open(browser: Any, page_uri: str, viewport: dict[str, int], scheme: str) -> tuple[Any, list[str]]:
    """The page, and the errors of its console and its requests."""
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda request: problems.append(request.url) if not request.url.startswith(("file:", "data:")) else 0
    )
    page.goto(page_uri)
    return page, problems


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_is_no_wider_than_the_screen_and_the_console_is_silent(
    browser: Any, page_uri: str, viewport: dict[str, int], scheme: str
):
    page, problems = _open(browser, page_uri, viewport, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    assert page.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).length") == 0
    assert page.locator("figure > img").count() > 20
    assert problems == []
    page.close()


def test_dark_is_dark_and_light_is_light(browser: Any, page_uri: str):
    brightness = {}
    for scheme in ("light", "dark"):
        page, _ = _open(browser, page_uri, DESKTOP, scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness[scheme] = sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
        page.close()
    assert brightness["light"] > 600
    assert brightness["dark"] < 150


def test_a_category_leads_to_its_pairs_and_back(browser: Any, page_uri: str):
    page, _ = _open(browser, page_uri, PHONE, "light")
    name = CATEGORIES[2]
    bar = page.locator("ul.bars a", has_text=name).first
    bar.click()
    heading = page.locator("h3:target")
    assert name in heading.inner_text()
    assert 0 <= heading.bounding_box()["y"] < PHONE["height"] / 2
    heading.locator("a").click()
    row = page.locator("li:target")
    assert name in row.inner_text()
    assert 0 <= row.bounding_box()["y"] < PHONE["height"]
    page.close()


def test_the_headline_leads_to_its_section(browser: Any, page_uri: str):
    page, _ = _open(browser, page_uri, DESKTOP, "light")
    page.locator("#numbers a").last.click()
    assert page.locator("section:target h2").inner_text() == "toy under protocol pf-pascal@256"
    page.close()


def test_it_prints_on_white_paper(browser: Any, page_uri: str):
    page, _ = _open(browser, page_uri, DESKTOP, "dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()
