"""nemf calibrate, then nemf pseudo-label, on the command line."""

import json
from pathlib import Path

import pytest
from make import encoded, noise_rgb
from planted_run import plant_run, rows_of

from jobs import calibrate, evaluate, pseudo_label


@pytest.fixture
def calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A calibration of a planted run, made by the command."""
    run, pairs = plant_run(tmp_path, 600, name="labelled", seed=1)
    file = str(tmp_path / "calibration.json")
    assert calibrate.main(["--matches", run, "--pairs", pairs, "--out", file]) == 0
    printed = capsys.readouterr().out
    assert "signals: confidence, neighbours, pair; absent: margin (match with --outputs keypoints,margin)" in printed
    assert "4800 points, " in printed
    return file


def test_labels_have_the_precision_that_was_asked_for(
    tmp_path: Path, calibration: str, capsys: pytest.CaptureFixture[str]
):
    run, pairs = plant_run(tmp_path, 600)
    out = str(tmp_path / "labels.parquet")

    assert (
        pseudo_label.main(
            ["--pairs", pairs, "--matches", run, "--calibration", calibration, "--precision", "0.9", "--out", out]
        )
        == 0
    )

    assert "expected to be right, 90." in capsys.readouterr().out
    truth = {row["pair_id"]: dict(zip(row["keypoint_id"], row["target_xy_px"], strict=True)) for row in rows_of(pairs)}
    right = [
        truth[row["pair_id"]][name] == xy
        for row in rows_of(out)
        for name, xy in zip(row["keypoint_id"], row["target_xy_px"], strict=True)
    ]
    assert len(right) > 500
    assert sum(right) / len(right) == pytest.approx(0.9, abs=0.03)


def test_the_file_names_what_it_was_made_on(calibration: str):
    content = json.loads(Path(calibration).read_text())

    assert (content["matcher"], content["matcher_fingerprint"]) == ("planted", "own")
    assert content["made_on"]["datasets"] == ["planted"]
    assert (content["made_on"]["n_pairs"], content["made_on"]["n_points"]) == (600, 4800)
    # confidence is uniform and the probability: Brier is the mean of p (1 - p), AUROC that of a uniform p
    assert content["quality"]["brier"] == pytest.approx(1 / 6, abs=0.01)
    assert content["quality"]["auroc"] == pytest.approx(5 / 6, abs=0.02)
    assert content["quality"]["ece"] < 0.05


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--alpha", "0"], "--alpha must be above 0"),
        (["--signals", "courage"], "--signals are confidence"),
        (["--signals", "margin"], "has no signal margin (match with --outputs keypoints,margin)"),
        (["--protocol", "tss"], "protocol tss scores flow"),
        (["--pairs", "OTHER"], "was matched with another manifest"),
    ],
)
def test_calibrate_refuses_what_it_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
):
    run, pairs = plant_run(tmp_path, 60)
    _, other = plant_run(tmp_path, 61, name="other")
    words = ["--matches", run, "--pairs", pairs, "--out", str(tmp_path / "c.json")]

    assert calibrate.main([*words, *(other if flag == "OTHER" else flag for flag in flags)]) == 2

    assert message in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--precision", "1.5"], "--precision is a share"),
        (["--out", "labels"], "is the name of a .parquet file"),
        (["--precision", "1"], "no label reaches a precision of 1: the best there is"),
    ],
)
def test_pseudo_label_refuses_what_it_cannot_do(
    tmp_path: Path, calibration: str, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
):
    run, pairs = plant_run(tmp_path, 60)
    words = ["--matches", run, "--pairs", pairs, "--calibration", calibration, "--out", str(tmp_path / "l.parquet")]

    assert pseudo_label.main([*words, *flags]) == 2

    assert message in capsys.readouterr().err
    assert not (tmp_path / "l.parquet").exists()


def test_labels_are_a_manifest_that_evaluate_reads(tmp_path: Path, calibration: str):
    run, pairs = plant_run(tmp_path, 100)
    out = str(tmp_path / "labels.parquet")
    words = ["--pairs", pairs, "--matches", run, "--calibration", calibration, "--min-probability", "0", "--out", out]
    assert pseudo_label.main(words) == 0

    metrics = str(tmp_path / "metrics.parquet")
    assert evaluate.main(["--matches", run, "--pairs", out, "--protocol", "spair", "--out", metrics]) == 0


def test_exports_hold_the_labels(tmp_path: Path, calibration: str, capsys: pytest.CaptureFixture[str]):
    run, pairs = plant_run(tmp_path, 20)
    for row in rows_of(pairs):
        for side in ("source", "target"):
            (tmp_path / row[f"{side}_uri"]).write_bytes(encoded(noise_rgb(0)))
    (tmp_path / rows_of(pairs)[0]["source_uri"]).unlink()
    description = json.loads((Path(run) / "run.json").read_text())
    (Path(run) / "run.json").write_text(json.dumps({**description, "image_root": str(tmp_path)}))
    out, forms = str(tmp_path / "labels.parquet"), ("spair", "coco", "huggingface", "huggingface-by-reference")
    words = ["--pairs", pairs, "--matches", run, "--calibration", calibration, "--min-probability", "0", "--out", out]
    words += ["--page", str(tmp_path / "labels.html")]

    code = pseudo_label.main([*words, "--export", *(word for form in forms for word in (form, str(tmp_path / form)))])

    printed = capsys.readouterr().out
    assert code == 0
    assert "<h1>Pseudo-labels of planted</h1>" in (tmp_path / "labels.html").read_text()
    assert printed.count("pairs left out: not_found, for instance") == 4
    for form in forms:
        assert f"wrote {tmp_path / form}: " in printed
        assert "| matcher | planted |" in (tmp_path / form / "README.md").read_text()
    n_pairs = len((tmp_path / "spair" / "Layout" / "large" / "trn.txt").read_text().splitlines())
    assert 0 < n_pairs < len(rows_of(out))
    assert (tmp_path / "spair" / "ImageAnnotation" / "cat").exists()
    assert len(rows_of(str(tmp_path / "huggingface" / "data" / "train-00000.parquet"))) == n_pairs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spair"], "--export is FORM FOLDER"),
        (["pickle", "FOLDER/a"], "--export is FORM FOLDER"),
        (["spair", "FOLDER/a", "coco", "FOLDER/a"], "every form needs a folder of its own"),
        (["spair", "FOLDER"], "is not empty: remove it, or give the export another one"),
        (["spair", "s3://bucket/a"], "exports are written to a folder of this machine"),
    ],
)
def test_exports_are_refused_before_labels_are_made(
    tmp_path: Path, calibration: str, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    run, pairs = plant_run(tmp_path, 20)
    out = str(tmp_path / "labels.parquet")
    export = [word.replace("FOLDER", str(tmp_path)) if "/" in word or word == "FOLDER" else word for word in words]

    arguments = ["--pairs", pairs, "--matches", run, "--calibration", calibration, "--out", out, "--export", *export]
    assert pseudo_label.main(arguments) == 2

    assert message in capsys.readouterr().err
    assert not Path(out).exists()


def test_points_without_names_are_not_exported_as_coco(
    tmp_path: Path, calibration: str, capsys: pytest.CaptureFixture[str]
):
    run, pairs = plant_run(tmp_path, 20)
    description = json.loads((Path(run) / "run.json").read_text())
    description["config"]["points"] = "grid:4"
    (Path(run) / "run.json").write_text(json.dumps(description))
    words = ["--pairs", pairs, "--matches", run, "--calibration", calibration, "--out", str(tmp_path / "l.parquet")]

    assert pseudo_label.main([*words, "--export", "coco", str(tmp_path / "coco")]) == 2

    assert "--export coco: COCO's form needs keypoints with names" in capsys.readouterr().err
