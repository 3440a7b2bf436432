from pathlib import Path

import pytest

from jobs.demo import _make_room, main


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    assert main(["--out", str(tmp_path)]) == 2

    assert "is not empty and was not made by the demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_unknown_matcher_leaves_an_earlier_demo_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    _make_room(out)
    (out / "report.html").touch()

    assert main(["--out", str(out), "--matcher", "nosuch"]) == 2

    assert "there is no matcher 'nosuch'" in capsys.readouterr().err
    assert (out / "report.html").exists()


def test_an_earlier_demo_makes_room_even_if_it_was_interrupted(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    _make_room(out)
    (out / "images" / "half.png").touch()

    _make_room(out)

    assert list((out / "images").iterdir()) == []
