from pathlib import Path

from planted_run import plant_run

import nemf
from nemf import pretrained
from pipeline.pseudo_labels.calibration import read_calibration
from pipeline.pseudo_labels.labels import read_provenance
from pipeline.pseudo_labels.make_labels import make_labels
from pipeline.pseudo_labels.selection import Rules
from pipeline.pseudo_labels.signals import signals_of_run


def test_the_calibration_that_ships_is_of_the_matcher_that_ships():
    """If it is not, match annotated pairs again and write the file anew: docs/pseudo-labels.md, 'Calibration'."""
    for name in pretrained.NAMES:
        calibration = read_calibration(str(pretrained.folder(name) / "calibration.json"))

        assert calibration.matcher == name
        assert calibration.matcher_fingerprint == nemf.load_matcher(name, device="cpu").fingerprint


def test_the_calibration_that_ships_judges_by_what_every_run_with_confidence_has():
    calibration = read_calibration(str(pretrained.folder("nemf-small") / "calibration.json"))

    calibration.check_signals(signals_of_run(["keypoints", "confidence"], has_other_run=False), "a run")
    assert calibration.made_on["datasets"] == ["animal-pose"]
    selected = {s["asked"]: s for s in calibration.quality["selected"]}
    for asked in (0.8, 0.9):
        low, high = selected[asked]["interval"]
        assert low <= asked <= high
        assert abs(selected[asked]["real"] - asked) < 0.04


def test_without_a_calibration_the_shipped_one_is_used_with_a_warning_that_names_what_it_was_made_on(tmp_path: Path):
    shipped = read_calibration(str(pretrained.folder("nemf-small") / "calibration.json"))
    run, pairs = plant_run(tmp_path, 50, fingerprint=shipped.matcher_fingerprint)

    lines = list(make_labels(str(tmp_path / "l.parquet"), pairs, run, rules=Rules(min_probability=0.5)))

    assert lines[0].startswith(
        "warning: the calibration that ships with nemf-small was made on 1200 pairs of animal-pose"
    )
    assert read_provenance(str(tmp_path / "l.parquet"))["calibration"] == "shipped"
