from pathlib import Path

import pandas as pd
import pytest

from pipeline.runs.events import EventLog, read_events


def test_events_are_read_in_order_and_by_pandas(tmp_path: Path) -> None:
    folder = str(tmp_path / "00003.events")
    log = EventLog(folder, 3)

    log.record("planned", rows=5)
    log.flush()
    log.record("committed", part="part-1.parquet", reasons={"ok": 5})
    log.flush()

    assert [(event["event"], event["attempt"]) for event in read_events(folder)] == [("planned", 3), ("committed", 3)]
    (segment,) = Path(folder).iterdir()
    table = pd.read_json(segment, lines=True)
    assert table["part"].tolist()[1] == "part-1.parquet"
    assert table["timestamp"].dt.tz is not None


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "log"), 1)

    log.flush()

    assert read_events(str(tmp_path / "log")) == []


def test_a_full_segment_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runs.events.SEGMENT_BYTES", 300)
    log = EventLog(str(tmp_path), 1)

    for number in range(20):
        log.record("committed", rows=number)
        log.flush()

    segments = sorted(tmp_path.iterdir())
    assert len(segments) > 3
    assert all(file.stat().st_size < 300 + 150 for file in segments)
    assert [event["rows"] for event in read_events(str(tmp_path))] == list(range(20))


def test_what_could_not_be_written_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_uri: str, _data: bytes) -> None:
        raise OSError("no space left on device")

    log = EventLog(str(tmp_path), 1)
    log.record("planned")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.io.storage.write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            log.flush()

    log.record("ended")
    log.flush()

    assert [event["event"] for event in read_events(str(tmp_path))] == ["planned", "ended"]
