import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import broken_storage  # noqa: F401
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from pipeline.io import storage
from pipeline.training.log import TrainingLog, _running_mean, draw_curves


@pytest.fixture(autouse=True)
def _names_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files are read in the order of their names, where two of one process and second differ in a count only."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


@pytest.fixture(params=["local", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "runs" / "small") if request.param == "local" else "memory://test_training_log"
    if request.param == "memory":
        storage.delete("memory://test_training_log")


def training_row(step: int, field: float = 2.0) -> dict[str, Any]:
    return {"step": step, "field": field, "total": field + 1, "lr": 1e-3}


def validation_row(step: int, pck: float) -> dict[str, Any]:
    return {"step": step, "pck@0.05": pck / 2, "pck@0.1": pck, "n_pairs": 100}


def scalars(out: str, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by tag, as TensorBoard reads them; by way of `folder`."""
    for uri in storage.list_files(storage.join(out, "tensorboard"), ""):
        storage.write_bytes(str(folder / uri.rpartition("/")[2]), storage.read_bytes(uri))
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_number_of_a_row_is_a_scalar(out: str, tmp_path: Path) -> None:
    log = TrainingLog(out, 0)
    log.add("training", training_row(10, 2.0))
    log.add("training", training_row(20, 1.5) | {"note": "no number"})
    log.add("validation", validation_row(20, 40.0))
    log.close()

    assert scalars(out, tmp_path / "read") == {
        "training/field": [(10, 2.0), (20, 1.5)],
        "training/total": [(10, 3.0), (20, 2.5)],
        "training/lr": [(10, pytest.approx(1e-3)), (20, pytest.approx(1e-3))],
        "validation/pck@0.05": [(20, 20.0)],
        "validation/pck@0.1": [(20, 40.0)],
        "validation/n_pairs": [(20, 100.0)],
    }


def test_what_is_saved_is_there_before_the_log_is_closed(out: str, tmp_path: Path) -> None:
    log = TrainingLog(out, 0)
    log.add("training", training_row(10))
    log.save({"training": [training_row(10)]})
    assert scalars(out, tmp_path / "read")["training/field"] == [(10, 2.0)]
    assert pixels(storage.read_bytes(storage.join(out, "curves.png"))).min() == 0

    log.add("training", training_row(20))
    log.close()
    assert scalars(out, tmp_path / "read")["training/field"] == [(10, 2.0), (20, 2.0)]


@pytest.mark.parametrize("state_step", [0, 20])
def test_a_resumed_run_shows_each_step_once(out: str, tmp_path: Path, state_step: int) -> None:
    """The first attempt reaches step 40 and is interrupted; the state is of step 20, or there is none."""
    first = TrainingLog(out, 0)
    for step in (10, 20, 30, 40):
        first.add("training", training_row(step, field=1.0))
    first.add("validation", validation_row(40, 10.0))
    first.close()

    second = TrainingLog(out, state_step)
    for step in range(state_step + 10, 60, 10):
        second.add("training", training_row(step, field=2.0))
    second.close()

    shown = scalars(out, tmp_path / "read")
    kept = [(step, 1.0) for step in (10, 20) if step <= state_step]
    assert shown["training/field"] == kept + [(step, 2.0) for step in range(state_step + 10, 60, 10)]
    assert shown.get("validation/pck@0.1", []) == []


def test_the_first_row_of_a_run_without_state_may_be_of_step_0(tmp_path: Path) -> None:
    for _ in range(2):
        log = TrainingLog(str(tmp_path / "out"), 0)
        log.add("validation", validation_row(0, 10.0))
        log.close()
    assert scalars(str(tmp_path / "out"), tmp_path / "read")["validation/pck@0.1"] == [(0, 10.0)]


def test_a_local_run_can_be_followed(tmp_path: Path) -> None:
    """TensorBoard holds the file open: it must grow, not be replaced."""
    log = TrainingLog(str(tmp_path), 0)
    (file,) = (tmp_path / "tensorboard").iterdir()
    before = file.stat()
    log.add("training", training_row(10))
    log.save({})
    assert file.stat().st_ino == before.st_ino
    assert file.stat().st_size > before.st_size
    log.close()
    assert list((tmp_path / "tensorboard").iterdir()) == [file]


def test_a_storage_that_says_no_is_an_os_error() -> None:
    log = TrainingLog("broken://out", 0)
    with pytest.raises(OSError, match=r"broken://out/tensorboard/.*the server is on fire"):
        log.save({})
    with pytest.raises(OSError, match="the server is on fire"):
        log.close()


def pixels(png: bytes) -> np.ndarray:
    """(H, W) grey, of bytes that must be a PNG image."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("L"))


def colours(png: bytes) -> set[tuple[int, ...]]:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        rgb = np.asarray(image.convert("RGB"))
    return set(map(tuple, np.unique(rgb.reshape(-1, 3), axis=0).tolist()))


BLUE, ORANGE, CYAN = (31, 119, 180), (255, 127, 14), (23, 190, 207)


def test_each_loss_has_a_panel_and_a_colour_and_pck_one_more() -> None:
    rows = [training_row(step, field=100 / step) | {"flow": 1.0, "gradient_norm": 3.0} for step in range(10, 500, 10)]
    one = draw_curves({"training": [training_row(10), training_row(20)]})
    two = draw_curves({"training": rows})
    three = draw_curves({"training": rows, "validation": [validation_row(100, 20.0), validation_row(200, 30.0)]})
    assert len(pixels(one)) < len(pixels(two)) < len(pixels(three))
    assert [colour in colours(one) for colour in (BLUE, ORANGE, CYAN)] == [True, False, False]
    assert [colour in colours(two) for colour in (BLUE, ORANGE, CYAN)] == [True, True, False]
    assert [colour in colours(three) for colour in (BLUE, ORANGE, CYAN)] == [True, True, True]


@pytest.mark.parametrize(
    "history",
    [
        {},
        {"training": [], "validation": [], "unusable": []},
        {"training": [training_row(10)], "validation": []},
        {"training": [], "validation": [validation_row(10, 0.0)]},
        {"training": [training_row(10), training_row(20, field=float("nan"))]},
        {"training": [training_row(10, field=float("nan"))], "validation": [validation_row(10, float("nan"))]},
        {"training": [training_row(10), training_row(20) | {"descriptor": 0.5}]},
        {"training": [training_row(10, field=0.0), training_row(20, field=0.0)]},
    ],
)
def test_histories_with_little_in_them(history: dict[str, Any]) -> None:
    grey = pixels(draw_curves(history))
    assert grey.max() == 255
    assert grey.min() < 64


def test_the_best_validation_is_the_first_of_the_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda axes, **_: labels.extend(_labels(axes)))
    rows = [validation_row(step, pck) for step, pck in ((1000, 20.0), (2000, 45.5), (3000, 45.5), (4000, 30.0))]
    draw_curves({"validation": rows})
    assert labels == ["pck@0.05", "pck@0.1", "best pck@0.1: 45.5 after 2,000 steps"]


def _labels(axes: Any) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_the_same_history_is_the_same_picture() -> None:
    history = {"training": [training_row(10), training_row(20)], "validation": [validation_row(20, 10.0)]}
    assert draw_curves(history) == draw_curves(history)


def test_the_running_mean_by_hand() -> None:
    """A Hann window of 3 has weights 1/2, 1, 1/2; a constant stays, up to the ends."""
    assert _running_mean(np.array([0.0, 4.0, 0.0, 0.0]), 3).tolist() == pytest.approx([4 / 3, 2, 1, 0])
    assert _running_mean(np.full(5, 7.0), 3).tolist() == pytest.approx([7] * 5)


def test_shapes_are_checked_in_the_tests() -> None:
    with pytest.raises(TypeCheckError, match="values"):
        _running_mean(np.zeros((2, 3)), 3)
