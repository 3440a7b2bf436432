import base64
import html
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.keypoint_errors import MATCH_COLUMNS, Failed, keypoint_errors
from pipeline.evaluation.metrics import read_metrics, write_metrics
from pipeline.evaluation.protocols import Protocol, protocol
from pipeline.io.manifest import read_pairs
from pipeline.report.page import render_report
from pipeline.runs.flow_codec import encode_flow
from pipeline.runs.parts import read_matches, write_part
from schemas.matches import MATCHES
from schemas.metrics import METRICS
from schemas.pairs import PAIRS

POINTS = [[10.0, 10.0], [50.0, 10.0], [10.0, 30.0], [50.0, 30.0]]
HOSTILE = "<script>alert('x')</script>&\"'"


def _pair(pair_id: str, category: str | None = "cat", **more: Any) -> dict[str, Any]:
    row = {"pair_id": pair_id, "category": category, "dataset": "toy", "source_uri": "a.png", "target_uri": "b.png"}
    box = {"source_box_xyxy": [0, 0, 60, 40], "target_box_xyxy": [0, 0, 60, 40]}
    return {**row, **box, "source_xy_px": POINTS, "target_xy_px": POINTS, **more}


def _answer(pair: dict[str, Any], off_px: Sequence[float] = (0, 0, 0, 0), **more: Any) -> dict[str, Any]:
    row = {"pair_id": pair["pair_id"], "direction": "source_to_target", "attempt": 1, "status": "ok"}
    row |= {"matcher": "planted", "fingerprint": "f00d", "query_hw": [40, 60], "reference_hw": [40, 60]}
    row |= {"milliseconds": {"decode": 2.0, "match": 8.0}, "query_xy_px": pair["source_xy_px"]}
    row["reference_xy_px"] = [[x + off, y] for (x, y), off in zip(pair["source_xy_px"] or [], off_px, strict=False)]
    return {**row, **more}


def _error(pair: dict[str, Any], message: str = "b.png is truncated") -> dict[str, Any]:
    nothing = dict.fromkeys(["query_xy_px", "reference_xy_px", "query_hw", "reference_hw", "milliseconds"])
    why = {"status": "error", "error_stage": "decode", "error_kind": "truncated", "error_message": message}
    return {**_answer(pair), **nothing, **why}


def _page(
    tmp_path: Path,
    pairs: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    *protocols: str | Protocol,
    failed: Failed = "wrong",
) -> str:
    """The report of a planted run, checked to be well formed and free of NaN and of the network."""
    tmp_path.mkdir(exist_ok=True)
    files = {name: str(tmp_path / name) for name in ("pairs.parquet", "run", "metrics.parquet")}
    for name, grey in (("a.png", 90), ("b.png", 160)):
        Image.fromarray(np.full((40, 60, 3), grey, np.uint8)).save(tmp_path / name)
    pq.write_table(pa.Table.from_pylist(pairs, PAIRS), files["pairs.parquet"])
    write_part(files["run"], pa.Table.from_pylist(rows, MATCHES))
    matches, manifest = read_matches(files["run"], MATCH_COLUMNS), read_pairs(files["pairs.parquet"])
    chosen = [protocol(each) if isinstance(each, str) else each for each in protocols or ["spair"]]
    metrics = evaluate(matches, manifest, chosen, failed=failed)
    write_metrics(files["metrics.parquet"], metrics)
    page = render_report(files["metrics.parquet"], files["run"], files["pairs.parquet"], image_root=str(tmp_path))
    _Balanced().check(page)
    text = re.sub(r"data:image/(jpeg|png);base64,[\w+/=]+", "", page)
    assert not re.search(r"\bnan\b|https?:|//|url\(", text, re.IGNORECASE)
    return page


class _Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def check(self, page: str) -> None:
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _pictures(page: str) -> list[Image.Image]:
    encoded = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in encoded]


def _drawn_categories(page: str) -> list[str]:
    return re.findall(r'<h3 id="pairs-\d+-\d+">(.*?) <a', page)


def _text(page: str) -> str:
    """The visible text of the page, in one line."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def test_numbers_come_with_protocol_and_counts(tmp_path: Path):
    pairs = [_pair("p1"), _pair("p2"), _pair("p3", "dog")]
    text = _text(_page(tmp_path, pairs, [_answer(pair, [0, 3, 6, 9]) for pair in pairs]))
    assert "toy under protocol spair" in text
    assert "longest side of the target object box" in text
    assert "PCK@0.1, image average 75.0 75.0–75.0 keypoint average 75.0 75.0–75.0 mean of 2 categories 75.0" in text
    assert "cat 2 8 0 25.0 25.0 50.0 75.0 100.0 25.0 25.0 50.0 75.0 100.0" in text
    assert "all 3 12 0 25.0 25.0 50.0 75.0 100.0" in text
    assert "3 pairs answered, 0 failed , 0 missing" in text
    assert "f00d" in text
    assert "decode 3 2.0 2.0 0.0" in text


def test_every_protocol_has_a_row_with_its_own_number_interval_and_counts(tmp_path: Path):
    pairs = [_pair("p1", source_xy_px=POINTS[:1], target_xy_px=POINTS[:1]), _pair("p2"), _pair("p3"), _pair("p4")]
    rows = [_answer(pairs[0], [99]), _answer(pairs[1]), _answer(pairs[2]), _error(pairs[3])]
    page = _page(tmp_path, pairs, rows, "spair", "geoaware-point")
    by_protocol = {name: re.search(rf"<tr>.*?<small>{name},.*?</tr>", page) for name in ("spair", "geoaware-point")}
    for name, row in by_protocol.items():
        assert row is not None
        cells = _text(row.group()).split()
        assert cells[:5] == ["toy", f"{name},", "source", "to", "target"]
        assert cells[5] == {"spair": "50.0", "geoaware-point": "61.5"}[name]  # 2 of 4 pairs, 8 of 13 keypoints
        assert re.fullmatch(r"\d+\.\d–\d+\.\d", cells[6])
        assert cells[-3:] == ["4", "13", "1"]
    assert "T = longest side of the target object box, pixels of a 840 x 840 letterbox, d < alpha T" in _text(page)


def test_a_protocol_of_ones_own_is_the_one_that_was_evaluated(tmp_path: Path):
    strict = Protocol(name="strict", directions=("source_to_target",), base="keypoints", points="inside")
    off = _pair("p", source_xy_px=[*POINTS, [90.0, 10.0]], target_xy_px=[*POINTS, [50.0, 10.0]])
    page = _page(tmp_path, [off], [_answer(off, [0, 0, 9, 9, 0])], strict)
    text = _text(page)
    assert "toy under protocol strict" in text
    assert "T = longest side of the target keypoints' tight box" in text
    assert "cat 50.0 1 pair, 4 keypoints" in text  # the fifth is outside its image
    assert len(_pictures(page)) == 1


def test_metrics_that_do_not_say_what_their_protocol_is_are_refused(tmp_path: Path):
    pair = _pair("p")
    _page(tmp_path, [pair], [_answer(pair)])
    metrics = read_metrics(str(tmp_path / "metrics.parquet"))
    metadata = {key: value for key, value in metrics.schema.metadata.items() if key != b"protocols"}
    write_metrics(str(tmp_path / "metrics.parquet"), metrics.replace_schema_metadata(metadata))
    with pytest.raises(ValueError, match=r"does not say what protocol spair is; run nemf evaluate again"):
        render_report(*(str(tmp_path / name) for name in ("metrics.parquet", "run", "pairs.parquet")))


def test_a_category_leads_to_its_pairs_and_back(tmp_path: Path):
    pairs = [_pair("p1", "cat"), _pair("p2", "dog")]
    page = _page(tmp_path, pairs, [_answer(pair, [9] * 4 * (pair["category"] == "cat") or [0] * 4) for pair in pairs])
    bars = re.findall(r'<li id="(category-0-\d)">.*?<a href="#(pairs-0-\d)">(.*?)</a>', page, re.DOTALL)
    assert bars == [("category-0-1", "pairs-0-1", "dog"), ("category-0-0", "pairs-0-0", "cat")]  # by falling PCK
    back = re.findall(r'<h3 id="(pairs-0-\d)">(.*?) <a href="#(category-0-\d)">', page)
    assert back == [("pairs-0-0", "cat", "category-0-0"), ("pairs-0-1", "dog", "category-0-1")]
    ids = re.findall(r' id="(.*?)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#(.*?)"', page)) <= set(ids)


def test_levels_of_difficulty_have_names(tmp_path: Path):
    pairs = [_pair("p1", occlusion=3), _pair("p2", occlusion=0), _pair("p3", viewpoint_variation=2)]
    text = _text(_page(tmp_path, pairs, [_answer(pairs[0], [99] * 4), _answer(pairs[1]), _answer(pairs[2])]))
    assert "viewpoint hard 100.0 1 pair, 4 keypoints unknown 50.0 50.0–50.0 2 pairs, 8 keypoints" in text
    assert "occlusion none 100.0 1 pair, 4 keypoints both 0.0 1 pair, 4 keypoints unknown 100.0" in text
    assert "truncation" not in text


def test_other_measures_and_kinds_of_groups_are_shown(tmp_path: Path):
    """The answer for the left keypoint is at the right one, the other is right; both are labelled."""
    points = [[10.0, 10.0], [40.0, 10.0]]
    labelled = {"keypoint_id": ["left", "right"], "mirror_keypoint_ids": [["left", "right"]]}
    labelled |= {"target_all_keypoint_id": ["left", "right"], "target_all_xy_px": points}
    pair = {
        **_pair("p1"),
        **labelled,
        "source_xy_px": points,
        "target_xy_px": points,
        "source_other_boxes_xyxy": [[0, 0, 9, 9]],
    }
    page = _text(_page(tmp_path, [pair], [_answer(pair, (30, 0))], "geco"))
    assert "left and right: both labelled in the target (n11)" in page
    assert re.search(r"objects of the category in an image several", page)
    assert re.search(r"of the image.s 60 to 100 %", page)
    assert re.search(r"twin 50\.0 50\.0 50\.0 50\.0 50\.0 both 0\.0", page)


def test_confidence_is_set_against_correctness(tmp_path: Path):
    pairs = [_pair("p1"), _pair("p2")]
    rows = [
        _answer(pairs[0], [0, 0, 0, 99], point_confidence=[0.9, 0.8, 0.7, 0.1]),
        _answer(pairs[1], point_confidence=None),
    ]
    text = _text(_page(tmp_path, pairs, rows))
    assert "4 keypoints of answered pairs in bins of about equal size" in text
    assert "4 keypoints have no confidence and are left out" in text
    assert "AURC, the mean height of the line: 0.062; 0.062 with the best order there is (dotted), 0.250 with" in text
    assert "0.7 – 0.7 100.0 1 keypoint" in text
    rows = [_answer(pair, point_confidence=None) for pair in pairs]
    assert "The matches hold no confidence of these keypoints." in _text(_page(tmp_path / "none", pairs, rows))


def test_the_same_run_gives_the_same_page(tmp_path: Path):
    pairs = [_pair(f"p{index}") for index in range(12)]
    rows = [_answer(pair, [0, index, 0, 0]) for index, pair in enumerate(pairs)]
    assert _page(tmp_path, pairs, rows) == _page(tmp_path, pairs, rows)


def test_best_worst_and_random_pairs_are_drawn_once_each(tmp_path: Path):
    pairs = [_pair(f"p{index}") for index in range(9)]
    rows = [
        _answer(pair, [99] * index + [0] * 4) for index, pair in zip([0, 1, 2, 2, 2, 2, 2, 3, 4], pairs, strict=True)
    ]
    page = _page(tmp_path, pairs, rows)
    assert page.count("data:image/jpeg;base64,") == 6
    captions = re.findall(r"<figcaption><b>(.*?)</b>, (.*?)<br>(.*?)</figcaption>", page)
    assert captions[:2] == [("best", "4 of 4 correct, PCK 100.0", "p0"), ("best", "3 of 4 correct, PCK 75.0", "p1")]
    assert captions[2:4] == [("worst", "0 of 4 correct, PCK 0.0", "p8"), ("worst", "1 of 4 correct, PCK 25.0", "p7")]
    assert {kind for kind, _, _ in captions[4:]} == {"random"}
    assert len({pair_id for _, _, pair_id in captions}) == 6


def test_a_wrong_point_is_drawn_with_its_true_place(tmp_path: Path):
    pair = _pair("p", source_xy_px=[[5, 5]], target_xy_px=[[50, 30]])
    page = _page(tmp_path, [pair], [_answer(pair, reference_xy_px=[[20, 8]])])
    assert "a dotted line to a ring where it should be" in _text(page)
    picture = _pictures(page)[0]
    ring_xy = picture.width - 360 + 50.5 * 6, 30.5 * 6  # images of 60 x 40 are drawn 360 x 240
    y, x = np.ogrid[: picture.height, : picture.width]
    near = (np.hypot(x - ring_xy[0], y - ring_xy[1]) < 8) & (np.hypot(x - ring_xy[0], y - ring_xy[1]) > 2)
    red, green, _ = np.asarray(picture, np.int64)[near].T
    assert (red - green > 60).sum() > 20


def test_many_data_sets_share_the_drawn_categories_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.report.page.MAX_DRAWN_CATEGORIES", 5)
    n_categories = {"a": 1, "b": 9, "c": 2}
    pairs = [
        _pair(f"{dataset}{index}", f"{dataset}-kind{index}", dataset=dataset)
        for dataset, count in n_categories.items()
        for index in range(count)
    ]
    page = _page(tmp_path, pairs, [_answer(pair) for pair in pairs])
    assert _drawn_categories(page) == ["a-kind0", "b-kind0", "b-kind1", "c-kind0", "c-kind1"]
    assert len(_pictures(page)) == 5
    assert "the first 2 of 9 categories, for this page draws at most 5" in _text(page)
    assert _text(page).count("These are the first") == 1
    assert "more data sets could be drawn" not in _text(page)

    monkeypatch.setattr("pipeline.report.page.MAX_DRAWN_CATEGORIES", 2)
    page = _page(tmp_path, pairs, [_answer(pair) for pair in pairs])
    assert _drawn_categories(page) == ["a-kind0", "b-kind0"]
    assert "1 more data sets could be drawn, but this page draws at most 2 categories" in _text(page)


def test_a_long_table_ends_with_what_it_left_out(tmp_path: Path):
    pairs = [_pair(f"p{index}", f"kind{index // 2:03d}") for index in range(406)]
    text = _text(_page(tmp_path, pairs, [_answer(pair) for pair in pairs]))
    assert "mean of 203 categories" in text
    assert text.count("kind199") == 2  # its bar and its row
    assert "kind200" not in text
    assert "all 406 1,624 0" in text
    assert "the first 200 of 203 categories; the others, with 6 pairs, are in the metrics file" in text


def test_points_are_compared_once_per_protocol_and_direction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def counting(*arguments: Any) -> Any:
        calls.append((arguments[2].name, arguments[3]))
        return keypoint_errors(*arguments)

    monkeypatch.setattr("pipeline.report.page.keypoint_errors", counting)
    pairs = [_pair(f"p{index}", dataset=f"toy{index % 3}") for index in range(6)]
    page = _page(tmp_path, pairs, [_answer(pair) for pair in pairs], "spair", "pf-pascal")
    assert calls == [("spair", "source_to_target"), ("pf-pascal", "source_to_target")]
    titles = [f"{name} under protocol {of}" for of in ("spair", "pf-pascal") for name in ("toy0", "toy1", "toy2")]
    assert re.findall(r"<h2>(.*? under .*?)</h2>", page) == titles
    assert re.findall(r"<h2>(Drawn .*?)</h2>", page) == [f"Drawn pairs of toy{index}" for index in range(3)]


def test_strings_of_the_manifest_and_of_errors_are_escaped(tmp_path: Path):
    fine, broken = _pair("p" + HOSTILE, HOSTILE, dataset=HOSTILE), _pair("q", HOSTILE, dataset=HOSTILE)
    page = _page(tmp_path, [fine, broken], [_answer(fine, matcher=HOSTILE), _error(broken, HOSTILE)])
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&#34;&#39;") > 5


def test_an_image_that_cannot_be_read_becomes_a_caption(tmp_path: Path):
    gone, fine = _pair("gone", source_uri="gone.png"), _pair("fine")
    page = _page(tmp_path, [gone, fine], [_answer(gone), _answer(fine)])
    assert page.count("data:image/jpeg;base64,") == 1
    assert re.search(r"cannot be drawn: .*gone\.png", _text(page))


def test_the_query_is_on_the_left_whichever_side_it_is(tmp_path: Path):
    pair = _pair("p")
    page = _page(tmp_path, [pair], [_answer(pair, direction="target_to_source")], "nemf")
    picture = np.asarray(_pictures(page)[0].convert("L"))
    assert abs(int(picture[-5, 5]) - 160) < 10  # the target, b.png
    assert abs(int(picture[-5, -5]) - 90) < 10
    assert "under nemf" in _text(page)


def test_inline_images_are_drawn_too(tmp_path: Path):
    Image.new("RGB", (60, 40)).save(tmp_path / "inline.png")
    data = (tmp_path / "inline.png").read_bytes()
    pair = _pair("p", source_uri=None, target_uri=None, source_image=data, target_image=data)
    assert _page(tmp_path, [pair], [_answer(pair)]).count("data:image/jpeg;base64,") == 1


def test_flow_is_drawn_where_there_are_no_keypoints(tmp_path: Path):
    pair = _pair("p", source_xy_px=None, target_xy_px=None)
    flow = encode_flow(np.full((40, 60, 2), 3.0))
    page = _page(tmp_path, [pair], [_answer(pair, reference_xy_px=None, **flow)])
    text = _text(page)
    assert page.count("data:image/jpeg;base64,") == 3
    assert "Nothing to score: no pair has keypoints" in text
    assert "24 points of the flow, no truth to compare with" in text
    assert "flow, full colour at 4 px reference warped onto the query, 0.0 % of pixels folded" in text
    assert "1 of them without keypoints" in text


def test_flow_is_drawn_beside_the_keypoints(tmp_path: Path):
    pair = _pair("p")
    flow_px = np.zeros((40, 60, 2))
    flow_px[:, 30:] = [-30, 0]
    page = _page(tmp_path, [pair], [_answer(pair, **encode_flow(flow_px))])
    assert "4 of 4 correct, PCK 100.0" in _text(page)
    assert "flow, full colour at 30 px" in _text(page)
    _, colours, warped = (np.asarray(picture, np.int64) for picture in _pictures(page))
    assert colours.shape == warped.shape == (40, 60, 3)
    assert np.abs(colours[20, 10] - 255).max() < 12  # does not move: white
    assert np.abs(colours[20, 50] - [0, 209, 255]).max() < 25  # to the left: full colour
    assert np.abs(warped - 160).max() < 12  # b.png everywhere


def test_points_without_a_known_truth_are_drawn(tmp_path: Path):
    pair = _pair("p", target_xy_px=None)
    text = _text(_page(tmp_path, [pair], [_answer(pair)]))
    assert "no truth , 4 points, no truth to compare with" in text


@pytest.mark.parametrize(("failed", "sentence"), [("wrong", "count as wrong"), ("exclude", "no pair was answered")])
def test_a_run_where_everything_failed_says_so(tmp_path: Path, failed: Failed, sentence: str):
    pairs = [_pair("p1"), _pair("p2")]
    text = _text(_page(tmp_path, pairs, [_error(pairs[0])], failed=failed))
    assert "0 pairs answered, 1 failed , 1 missing" in text
    assert "2 pairs with keypoints failed or are missing" in text
    assert sentence in text
    assert "decode truncated 1 p1: b.png is truncated" in text


def test_a_run_without_rows_says_so(tmp_path: Path):
    files = [str(tmp_path / name) for name in ("metrics.parquet", "matches.parquet", "pairs.parquet")]
    for file, schema in zip(files, (METRICS, MATCHES, PAIRS), strict=True):
        pq.write_table(schema.empty_table(), file)
    text = _text(render_report(*files))
    assert "none was matched" in text
    assert "nothing was scored" in text


def test_leak_free_number_stands_beside_the_usual_one(tmp_path: Path):
    leaked, fresh = _pair("p1", seen_in_training=True), _pair("p2", seen_in_training=False)
    text = _text(_page(tmp_path, [leaked, fresh], [_answer(leaked), _answer(fresh, [99] * 4)]))
    assert "1 leak-free pairs 0.0" in text
    assert "PCK@0.1, image average 50.0" in text


def test_metrics_of_another_run_are_refused(tmp_path: Path):
    pair = _pair("p")
    _page(tmp_path, [pair], [_answer(pair)])
    write_part(str(tmp_path / "other"), pa.Table.from_pylist([_answer(pair, fingerprint="beef")], MATCHES))
    with pytest.raises(ValueError, match=r"fingerprint f00d, here beef.*nemf evaluate again"):
        render_report(*(str(tmp_path / name) for name in ("metrics.parquet", "other", "pairs.parquet")))


def test_metrics_older_than_the_matches_are_refused(tmp_path: Path):
    pairs = [_pair("p"), _pair("q")]
    _page(tmp_path, pairs, [_answer(pairs[0])])
    write_part(str(tmp_path / "run"), pa.Table.from_pylist([_answer(pairs[1])], MATCHES))
    with pytest.raises(ValueError, match=r"counts 1 failed pairs.*there are 0.*nemf evaluate again"):
        render_report(*(str(tmp_path / name) for name in ("metrics.parquet", "run", "pairs.parquet")))
