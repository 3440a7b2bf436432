"""Labels of planted runs: what is right with a known probability, which the calibration knows."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from make import match_rows, pair_row, run_description, write_pairs
from planted_run import LOG_ODDS, N_POINTS, finish, identity_share, plant_run, rows_of

from pipeline.pseudo_labels import scored_parts
from pipeline.pseudo_labels.labels import labelled_tables, read_provenance
from pipeline.pseudo_labels.make_labels import make_labels
from pipeline.pseudo_labels.selection import NoLabelsError, Rules
from pipeline.runs.compact import compact, plan_compaction
from pipeline.runs.folder import open_run, read_run
from pipeline.runs.lease import RunInUseError
from pipeline.runs.parts import list_parts, write_part


def calibration(folder: Path, **changes: Any) -> str:
    """A calibration whose probability is the confidence."""
    content = {
        **{"format": "nemf calibration", "version": 1, "matcher": "planted", "matcher_fingerprint": "own"},
        **{"protocol": "spair", "alpha": 0.1, "made_on": {"n_pairs": 7}, "quality": {}},
        **{"signals": {"confidence": identity_share()}, "intercept": -LOG_ODDS, **changes},
    }
    file = folder / "calibration.json"
    file.write_text(json.dumps(content))
    return str(file)


def label(folder: Path, run: str, pairs: str, out: str = "labels.parquet", **options: Any) -> str:
    """The path of the labels; options: fields of Rules, calibration_uri and agree."""
    uri = options.pop("calibration_uri", None) or calibration(folder)
    agree, path = options.pop("agree", None), str(folder / out)
    list(make_labels(path, pairs, run, rules=Rules(**options), calibration_uri=uri, agree=agree))
    return path


def right_and_expected(labels: str, pairs: str) -> tuple[float, float]:
    """The share of labels whose target is the manifest's, and the mean of their probabilities."""
    truth = {row["pair_id"]: dict(zip(row["keypoint_id"], row["target_xy_px"], strict=True)) for row in rows_of(pairs)}
    right, probability = [], []
    for row in rows_of(labels):
        of_pair = truth[row["pair_id"]]
        right += [of_pair[k] == xy for k, xy in zip(row["keypoint_id"], row["target_xy_px"], strict=True)]
        probability += row["keypoint_probability"]
    return float(np.mean(right)), float(np.mean(probability))


def test_the_precision_is_what_was_asked_for_and_what_is_real(tmp_path: Path):
    run, pairs = plant_run(tmp_path, 1000)

    for asked in (0.8, 0.9):
        labels = label(tmp_path, run, pairs, precision=asked)
        real, expected = right_and_expected(labels, pairs)
        provenance = read_provenance(labels)

        assert expected == pytest.approx(asked, abs=0.001)
        assert real == pytest.approx(asked, abs=0.02)
        assert provenance["expected_precision"] == pytest.approx(expected, abs=1e-5)
        # probabilities are uniform: a mean of .8 is from .6 on, which is 40 % of the points
        assert provenance["threshold"] == pytest.approx(2 * asked - 1, abs=0.02)
        assert provenance["n_labels"] == pytest.approx(1000 * N_POINTS * 2 * (1 - asked), rel=0.05)


def test_rows_that_a_finished_run_lacks_are_told(tmp_path: Path):
    run, pairs = plant_run(tmp_path, 100, parts_of=25)
    Path(list_parts(run)[0]).unlink()

    said = list(
        make_labels(str(tmp_path / "l.parquet"), pairs, run, rules=Rules(), calibration_uri=calibration(tmp_path))
    )

    assert any(f"warning: {run} lacks 25 of its rows" in line for line in said)
    assert len(rows_of(str(tmp_path / "l.parquet"))) == 75


def test_rows_are_those_of_the_manifest_with_the_labels_as_keypoints(tmp_path: Path):
    run, pairs = plant_run(tmp_path, 100)

    labels = label(tmp_path, run, pairs, min_probability=0.5)

    before = {row["pair_id"]: row for row in rows_of(pairs)}
    after = rows_of(labels)
    assert [row["pair_id"] for row in after] == [row["pair_id"] for row in rows_of(pairs)]
    for row in after:
        annotated = before[row["pair_id"]]
        for name in ("category", "dataset", "source_uri", "target_uri", "source_box_xyxy", "target_box_xyxy"):
            assert row[name] == annotated[name]
        points = dict(zip(annotated["keypoint_id"], annotated["source_xy_px"], strict=True))
        assert row["source_xy_px"] == [points[name] for name in row["keypoint_id"]]
        assert min(row["keypoint_probability"]) >= 0.5
    tables = list(labelled_tables(labels))
    assert sum(table.num_rows for table in tables) == 100
    assert json.loads(tables[0].schema.metadata[b"pseudo_labels"])["matcher"] == "planted"
    assert not (tmp_path / "labels.parquet.work").exists()


def test_points_of_the_target_stay_the_target(tmp_path: Path):
    run, pairs = plant_run(tmp_path, 50, direction="target_to_source")

    after = rows_of(label(tmp_path, run, pairs, min_probability=0.9))

    before = {row["pair_id"]: dict(zip(row["keypoint_id"], row["target_xy_px"], strict=True)) for row in rows_of(pairs)}
    assert len(after) > 10
    for row in after:
        assert row["target_xy_px"] == [before[row["pair_id"]][name] for name in row["keypoint_id"]]


def run_of(folder: Path, rows: list[dict[str, Any]], pairs: list[dict[str, Any]], **config: Any) -> tuple[str, str]:
    """A finished run of these MATCHES rows, one part each, and its manifest."""
    manifest = write_pairs(folder / "p.parquet", pairs)
    root = config.pop("image_root", None)
    description = run_description(manifest, outputs=["keypoints", "confidence", "cycle"], **config)
    run = open_run(str(folder / "r"), {**description, "matcher_fingerprint": "own", "image_root": root})
    for row in rows:
        write_part(run.out, match_rows({"query_hw": [40, 40], "reference_hw": [40, 40], **row}))
    finish(run, manifest)
    return run.out, manifest


POINTS = {"query_xy_px": [[1, 2], [3, 4], [5, 6]], "reference_xy_px": [[7, 8], [9, 10], [11, 12]]}


def test_points_that_are_not_the_manifests_are_known_by_their_number(tmp_path: Path):
    row = {"pair_id": "a", **POINTS, "point_confidence": [0.9, 0.1, 0.8]}
    pairs = [pair_row("a", keypoint_id=["x", "y", "z"]), pair_row("b", keypoint_id=["x", "y", "z"])]
    asked = {**row, "pair_id": "b", "query_xy_px": pairs[1]["source_xy_px"]}
    run, manifest = run_of(tmp_path, [row, asked], pairs)

    labels = rows_of(label(tmp_path, run, manifest, min_probability=0.5))

    assert [r["keypoint_id"] for r in labels] == [["0", "2"], ["x", "z"]]
    assert labels[0]["source_xy_px"] == [[1, 2], [5, 6]]
    assert labels[0]["target_xy_px"] == [[7, 8], [11, 12]]
    assert labels[0]["keypoint_probability"] == pytest.approx([0.9, 0.8])


def test_a_run_of_both_directions_gives_two_pairs(tmp_path: Path):
    forth = {"pair_id": "a", **POINTS, "point_confidence": [0.9, 0.1, 0.8]}
    back = {**forth, "direction": "target_to_source", "point_confidence": [0.1, 0.7, 0.1]}
    run, manifest = run_of(tmp_path, [back, forth], [pair_row("a")], direction="both")

    labels = rows_of(label(tmp_path, run, manifest, min_probability=0.5))

    assert [row["pair_id"] for row in labels] == ["a", "a:target_to_source"]
    assert labels[1]["source_xy_px"] == [[9, 10]]
    assert labels[1]["target_xy_px"] == [[3, 4]]


def test_cycle_errors_numbers_per_pair_and_pairs_with_few_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    full = {"pair_id": "a", **POINTS, "point_confidence": [0.7, 0.9, 0.8], "point_cycle_error_px": [0, 40, 4]}
    failed = {"pair_id": "b", "status": "error", "error_stage": "fetch", "error_kind": "not_found"}
    empty = {"pair_id": "c", "query_xy_px": [], "reference_xy_px": []}
    run, manifest = run_of(tmp_path, [full, failed, empty], [pair_row(name) for name in "abc"])

    def probabilities(**rules: Any) -> list[list[float]]:
        rows = rows_of(label(tmp_path, run, manifest, **rules))
        return [[round(p, 3) for p in row["keypoint_probability"]] for row in rows]

    # T is the longest side of the image, 40
    assert probabilities(min_probability=0, max_cycle=0.1) == [[0.7, 0.8]]
    assert probabilities(min_probability=0, per_pair=2) == [[0.9, 0.8]]
    assert probabilities(precision=0.8, min_points=3) == [[0.7, 0.9, 0.8]]
    with pytest.raises(NoLabelsError, match=r"the best there is is a precision of 0\.800"):
        probabilities(precision=0.81, min_points=3)
    lines = list(
        make_labels(
            str(tmp_path / "l.parquet"),
            manifest,
            run,
            rules=Rules(precision=0.5),
            calibration_uri=calibration(tmp_path),
            agree=None,
        )
    )
    assert any("1 pairs without labels: fetch: not_found" in line for line in lines)
    assert any("1 pairs without labels: no points, or none within --max-cycle" in line for line in lines)


def test_of_two_answers_the_later_one_counts_and_an_answer_beats_an_error(tmp_path: Path):
    early = {"pair_id": "a", **POINTS, "point_confidence": [0.9, 0.9, 0.9]}
    late = {**early, "attempt": 2, "point_confidence": [0.6, 0.6, 0.6]}
    failed = {"pair_id": "a", "attempt": 3, "status": "error", "error_stage": "fetch", "error_kind": "timeout"}
    run, manifest = run_of(tmp_path, [late, failed, early], [pair_row("a")])

    (row,) = rows_of(label(tmp_path, run, manifest, min_probability=0))

    assert row["keypoint_probability"] == pytest.approx([0.6] * 3)


def test_the_bytes_are_the_same_however_the_rows_are_spread_over_parts(tmp_path: Path):
    contents = []
    for size in (1000, 64, 7):
        folder = tmp_path / str(size)
        folder.mkdir()
        run, pairs = plant_run(folder, 300, parts_of=size)
        shutil.copy(pairs, tmp_path / "same.parquet")
        tables = pq.read_table(label(folder, run, str(tmp_path / "same.parquet"), precision=0.8))
        contents.append(tables.replace_schema_metadata(None))
    again = read_run(str(tmp_path / "7" / "run"))
    compact(again, plan_compaction(again, 10**6))
    compacted = pq.read_table(label(tmp_path, again.out, str(tmp_path / "same.parquet"), precision=0.8))

    assert contents[0].num_rows > 100
    assert contents[0].equals(contents[1])
    assert contents[0].equals(contents[2])
    assert contents[0].equals(compacted.replace_schema_metadata(None))


def test_a_job_that_is_killed_goes_on_with_the_parts_that_are_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, pairs = plant_run(tmp_path, 300, parts_of=50)
    whole = Path(label(tmp_path, run, pairs, "whole.parquet", precision=0.8)).read_bytes()
    scored, score_part = [], scored_parts.score_part

    def die_at_the_fourth(number: int, task: Any) -> Any:
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(number)
        return score_part(number, task)

    monkeypatch.setattr(scored_parts, "THREADS", 1)
    monkeypatch.setattr(scored_parts, "score_part", die_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        label(tmp_path, run, pairs, precision=0.8)
    assert not (tmp_path / "labels.parquet").exists()
    again: list[int] = []
    monkeypatch.setattr(scored_parts, "score_part", lambda n, task: again.append(n) or score_part(n, task))

    labels = label(tmp_path, run, pairs, precision=0.8)

    assert sorted(scored + again) == list(range(len(list_parts(run))))
    assert Path(labels).read_bytes() == whole


def test_what_is_left_of_labels_of_another_calibration_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, pairs = plant_run(tmp_path, 100)
    with pytest.raises(NoLabelsError):
        label(tmp_path, run, pairs, precision=1)
    assert (tmp_path / "labels.parquet.work").exists()
    share = {"values": [0, 1], "ranks": [0, 1], "weights": [0] * 5, "missing": 0}
    half = calibration(tmp_path, signals={"confidence": share}, intercept=0)

    labels = label(tmp_path, run, pairs, min_probability=0, calibration_uri=half)

    assert max(max(row["keypoint_probability"]) for row in rows_of(labels)) <= 0.5


def test_agreement_with_a_second_run_is_looked_up_in_whatever_parts_it_is(tmp_path: Path):
    run, pairs = plant_run(tmp_path, 200)
    truth = {row["pair_id"]: row["target_xy_px"] for row in rows_of(pairs)}
    second = open_run(str(tmp_path / "second"), {**run_description(pairs), "matcher_fingerprint": "another"})
    points = {row["pair_id"]: row["source_xy_px"] for row in rows_of(pairs)}
    answers = [{"pair_id": name, "query_xy_px": points[name], "reference_xy_px": truth[name]} for name in truth]
    for first in (0, 31, 150):  # the second run has no answer for half of the pairs
        write_part(second.out, match_rows(*answers[first : {0: 31, 31: 70, 150: 200}[first]][::-1]))
    failed = {"status": "error", "error_stage": "fetch", "error_kind": "timeout"}
    write_part(second.out, match_rows(*({"pair_id": f"pair-{n:05}", **failed} for n in range(70, 150))))
    finish(second, pairs)
    # probability 1 where the answers agree within .01, 0 where they do not or there is none
    share = {"values": [0, 0.01], "ranks": [0, 1], "weights": [-200, 0, 0, 0, 0], "missing": -200}
    exact = calibration(tmp_path, signals={"agreement": share}, intercept=100)

    with pytest.raises(ValueError, match=r"lacks: agreement \(give a second run with --agree\)"):
        label(tmp_path, run, pairs, min_probability=0.5, calibration_uri=exact)
    labels = label(tmp_path, run, pairs, min_probability=0.5, calibration_uri=exact, agree=second.out)

    real, _ = right_and_expected(labels, pairs)
    assert real == 1
    labelled = {row["pair_id"] for row in rows_of(labels)}
    assert len(labelled) > 100
    assert not labelled & {f"pair-{n:05}" for n in range(70, 150)}


def test_a_folder_of_somebody_elses_files_is_left_as_it_is(tmp_path: Path):
    run, pairs = plant_run(tmp_path, 20)
    (tmp_path / "labels.parquet.work").mkdir()
    (tmp_path / "labels.parquet.work" / "thesis.tex").touch()

    with pytest.raises(ValueError, match=r"labels\.parquet\.work holds other files"):
        label(tmp_path, run, pairs, precision=0.8)
    assert (tmp_path / "labels.parquet.work" / "thesis.tex").exists()


def test_two_at_once_do_not_write_the_same_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, pairs = plant_run(tmp_path, 100)
    score_part, refused = scored_parts.score_part, []

    def score_while_another_comes(number: int, task: scored_parts.ScoringTask) -> Any:
        if not refused:
            with pytest.raises(
                RunInUseError, match=r"labels\.parquet\.work is in use: attempt 1 .* another --out"
            ) as info:
                label(tmp_path, run, pairs, precision=0.9)
            refused.append(info.value)
        return score_part(number, task)

    monkeypatch.setattr(scored_parts, "THREADS", 1)
    monkeypatch.setattr(scored_parts, "score_part", score_while_another_comes)
    labels = label(tmp_path, run, pairs, precision=0.8)

    assert len(refused) == 1
    assert read_provenance(labels)["precision"] == 0.8
    assert not (tmp_path / "labels.parquet.work").exists()
    assert Path(label(tmp_path, run, pairs, "again.parquet", precision=0.8)).read_bytes() == Path(labels).read_bytes()


def test_pairs_whose_images_are_gone_are_counted_if_they_are_looked_for(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for name in ("there.png", "too.png"):
        (tmp_path / "images" / name).touch()
    images = {"a": ("there.png", "too.png"), "b": ("there.png", "gone.png"), "c": ("http://x/y.png", "too.png")}
    pairs = [pair_row(name, source_uri=source, target_uri=target) for name, (source, target) in images.items()]
    rows = [{"pair_id": name, **POINTS, "point_confidence": [0.9, 0.9, 0.9]} for name in images]
    run, manifest = run_of(tmp_path, rows, pairs, image_root=str(tmp_path / "images"))
    options: dict[str, Any] = {"rules": Rules(precision=0.8), "calibration_uri": calibration(tmp_path)}
    out = str(tmp_path / "l.parquet")

    list(make_labels(out, manifest, run, **options))
    assert len(rows_of(out)) == 3
    lines = list(make_labels(out, manifest, run, **options, check_images=True))
    assert [row["pair_id"] for row in rows_of(out)] == ["a", "c"]
    assert any("1 pairs without labels: an image is not there any more" in line for line in lines)
    assert read_provenance(out)["n_labels"] == 6


def test_runs_and_calibrations_that_do_not_fit_are_refused(tmp_path: Path):
    run, pairs = plant_run(tmp_path, 20)
    _, others = plant_run(tmp_path, 21, name="other")
    unfinished, of_it = plant_run(tmp_path, 20, name="unfinished", finished=False)

    with pytest.raises(ValueError, match="was matched with another manifest"):
        label(tmp_path, run, others, precision=0.8)
    with pytest.raises(ValueError, match="is not finished"):
        label(tmp_path, unfinished, of_it, precision=0.8)
    with pytest.raises(ValueError, match=r"is of matcher planted \(fingerprint own\), the calibration of planted"):
        label(tmp_path, run, pairs, calibration_uri=calibration(tmp_path, matcher_fingerprint="another"))
    share = {"values": [0, 1], "ranks": [0, 1], "weights": [1, 0, 0, 0, 0], "missing": 0}
    with pytest.raises(ValueError, match=r"lacks: cycle \(match with --outputs keypoints,cycle\)"):
        label(tmp_path, run, pairs, calibration_uri=calibration(tmp_path, signals={"cycle": share}))
    with pytest.raises(ValueError, match="--max-cycle needs cycle"):
        label(tmp_path, run, pairs, max_cycle=0.1)
    with pytest.raises(ValueError, match=r"no calibration ships with planted .*nemf calibrate"):
        list(make_labels(str(tmp_path / "l"), pairs, run, rules=Rules(), calibration_uri=None, agree=None))


def test_a_manifest_of_annotations_has_no_provenance(tmp_path: Path):
    pairs = write_pairs(tmp_path / "p.parquet", [pair_row("a")])

    with pytest.raises(ValueError, match="holds no pseudo-labels"):
        list(labelled_tables(pairs))
