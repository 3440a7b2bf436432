"""The parts of jobs.match that need no Ray."""

import json
import os
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from make import match_rows, pair_row, write_image_pairs, write_pairs

from jobs import cli
from jobs.match import Config, main, run
from nemf import checkpoints, load_matcher
from nemf.model.build import build
from nemf.model.presets import nemf_small
from pipeline.io import storage
from pipeline.runs.folder import read_run, run_fingerprint
from pipeline.runs.lease import read_attempts
from pipeline.runs.parts import read_matches, write_part
from pipeline.runs.status import as_text, read_status


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("this must not need Ray")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr("jobs.match._HEAD_START", 60)  # on a busy machine it would start before an error is known


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return write_pairs(tmp_path / "pairs.parquet", [pair_row(name) for name in "abc"])


def _answered(pairs: str, out: Path) -> list[str]:
    """Commit matches of all three pairs; returns the flags of their run."""
    shaping = {"directions": ["source_to_target"], "outputs": ["keypoints", "confidence"]}
    fingerprint = run_fingerprint(load_matcher("identity").fingerprint, shaping)
    write_part(str(out), match_rows(*({"pair_id": name, "fingerprint": fingerprint} for name in "abc")))
    return ["--pairs", pairs, "--out", str(out), "--matcher", "identity"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--outputs nonsense", "--outputs must name keypoints or flow, .* among keypoints, flow, .*; got nonsense"),
        ("--outputs confidence", "--outputs must name keypoints or flow"),
        ("--outputs=", "--outputs must name keypoints or flow.*; got none"),
        ("--outputs flow,cycle", "--outputs cycle is about keypoints: ask for both"),
        ("--outputs flow,margin", "--outputs margin is about keypoints: ask for both"),
        ("--points grid:0", "--points must be keypoints, grid:N, .*; got 'grid:0'"),
        ("--points grid:x", "--points must be keypoints, grid:N, .*; got 'grid:x'"),
        ("--points grid:101", "--points grid:101 are 10,201 points a pair; at most 10,000"),
        ("--points grid:2 --outputs flow", "--points grid:2 is about keypoints: ask for --outputs keypoints too"),
        (
            "--points salient:9 --matcher identity",
            "--points salient:9 needs a matcher with descriptors, and identity has",
        ),
        (
            "--points salient:9 --matcher slow_matcher:SlowMatcher",
            "--points salient:9 needs a matcher with descriptors, and slow_matcher:SlowMatcher has",
        ),
        (
            "--outputs flow,keypoints --crop boxes",
            "--crop boxes is about keypoints: a crop has no flow of the whole image",
        ),
        ("--limit 0", "--limit must be at least 1; got 0"),
        ("--workers 0", "--workers is N or MIN,MAX, from 1 up; got 0,0"),
        ("--workers 8,2", "--workers is N or MIN,MAX, from 1 up; got 8,2"),
        ("--gpus-per-worker 0", "--gpus-per-worker is a share of one GPU or a whole number; got 0.0"),
        ("--gpus-per-worker 1.5", "--gpus-per-worker is a share of one GPU or a whole number; got 1.5"),
        ("--slice-pairs -5", "--slice-pairs must be at least 1; got -5"),
        ("--batch-pairs 0", "--batch-pairs must be at least 1; got 0"),
        ("--error-budget 1.5", "--error-budget is a share, 0..1; got 1.5"),
        ("--error-budget nan", "--error-budget is a share, 0..1; got nan"),
        ("--matcher sift", "there is no matcher 'sift'; there are"),
        ("--matcher nowhere:make", "matcher 'nowhere:make': there is no module 'nowhere' on Python's path"),
        (
            "--matcher identity --backbone-weights w.safetensors",
            "identity takes no backbone's weights: leave out --backbone-weights",
        ),
        ("--matcher nearest-neighbour:dense-sift?image_size=8", "image_size must be 32 to 1024; got 8"),
    ],
)
def test_settings_that_cannot_be_are_one_line_and_exit_code_2(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    out = tmp_path / "run"

    assert main(["--pairs", pairs, "--out", str(out), *flags.split()]) == 2

    _expect_one_line(capsys, message)
    assert not out.exists()


def test_a_checkpoint_means_the_same_to_every_process(
    pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.save(tmp_path / "trained", build(nemf_small()), nemf_small())
    monkeypatch.chdir(tmp_path)

    flags = ["--pairs", pairs, "--out", str(tmp_path / "run"), "--dry-run", "--matcher"]
    assert main([*flags, "trained?patchmatch_steps=1"]) == 0
    assert main([*flags, f"{(tmp_path / 'trained').as_uri()}?patchmatch_steps=1"]) == 0
    assert main([*flags, "descriptors:trained?window=0"]) == 0

    said = capsys.readouterr().out
    path, uri, descriptors = re.findall(r"^matcher (.*), run fingerprint (\w+),", said, re.MULTILINE)
    assert path == (f"{tmp_path}/trained?patchmatch_steps=1", uri[1])
    assert uri[0] == f"file://{path[0]}"
    assert descriptors[0] == f"descriptors:{tmp_path}/trained?window=0"


def test_the_console_script_says_the_same(
    pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--pairs", pairs, "--out", str(tmp_path / "run"), "--outputs", "nonsense"]
    monkeypatch.setattr(sys, "argv", ["nemf", "match", *flags])

    assert cli.main() == 2

    _expect_one_line(capsys, "got nonsense")


@pytest.mark.parametrize(("flags", "said"), [("--direction forth", "--direction"), ("--pairs x.parquet", "--out")])
def test_what_is_no_command_line_ends_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], flags: str, said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(flags.split())

    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_from_python_they_are_a_value_error(pairs: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--limit must be at least 1"):
        run(Config(pairs=pairs, out=str(tmp_path / "run"), limit=0))


def _no_manifest(path: Path) -> None:
    path.mkdir()


def _not_parquet(path: Path) -> None:
    path.write_text("source_uri,target_uri\n")


def _not_pairs(path: Path) -> None:
    pq.write_table(pa.table({"pair_id": ["a"], "source_uri": [1], "colour": ["red"]}), path)


def _repeated_ids(path: Path) -> None:
    write_pairs(path, [pair_row(name) for name in "abcab"])


def _empty(path: Path) -> None:
    write_pairs(path, [])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda _path: None, "no manifest at .*: neither a .parquet file nor a folder that holds one"),
        (_no_manifest, "no manifest at "),
        (_not_parquet, "is not a Parquet file"),
        (_not_pairs, "column source_uri is int64, schema says string; column colour is not in the schema"),
        (_repeated_ids, "2 pair_id occur more than once, for instance 'a', 'b'"),
        (_empty, "the manifest has no rows"),
    ],
)
def test_a_manifest_that_will_not_do_claims_no_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], None], message: str
) -> None:
    file, out = tmp_path / "manifest.parquet", tmp_path / "run"
    write(file)

    assert main(["--pairs", str(file), "--out", str(out), "--matcher", "identity"]) == 2

    _expect_one_line(capsys, message, str(file))
    assert not out.exists()


def test_planning_opens_each_file_of_the_manifest_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: Counter[tuple[str, str]] = Counter()

    def count(name: str) -> None:
        method = getattr(MemoryFileSystem, name)

        def counting(self: MemoryFileSystem, path: str, *arguments: object, **options: object) -> object:
            requests[name, path] += 1
            return method(self, path, *arguments, **options)

        monkeypatch.setattr(MemoryFileSystem, name, counting)

    for name in ("a", "b"):
        file = write_pairs(tmp_path / f"{name}.parquet", [pair_row(f"{name}{n}") for n in range(5)])
        storage.write_bytes(f"memory://planned/{name}.parquet", Path(file).read_bytes())
    for name in ("open", "ls", "cat_file"):
        count(name)

    flags = ["--pairs", "memory://planned", "--out", str(tmp_path / "run"), "--matcher", "identity", "--dry-run"]
    assert main(flags) == 0

    assert requests == {
        ("ls", "/planned"): 1,
        ("open", "/planned/a.parquet"): 1,
        ("open", "/planned/b.parquet"): 1,
    }


def test_a_dry_run_says_what_is_left_and_writes_nothing(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--pairs", pairs, "--out", str(tmp_path / "run"), "--matcher", "identity", "--dry-run"]

    assert main([*flags, "--slice-pairs", "2"]) == 0

    assert "3 pairs: 0 done, 3 to do in 2 slices" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_run_in_boxes_says_so_and_is_another_run(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--pairs", pairs, "--out", str(tmp_path / "run"), "--matcher", "identity", "--dry-run"]
    assert main(flags) == 0
    whole = capsys.readouterr().out
    assert main([*flags, "--crop", "boxes"]) == 0
    in_boxes = capsys.readouterr().out
    assert "outputs keypoints, confidence, points keypoints, images cropped to boxes" in in_boxes
    assert "cropped" not in whole
    fingerprints = [re.search(r"fingerprint (\w+)", text) for text in (whole, in_boxes)]
    assert len({found and found[1] for found in fingerprints}) == 2


def test_ray_starts_while_the_matcher_is_loaded_and_is_left_after_an_error(
    pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []

    @contextmanager
    def connected(address: str | None) -> Iterator[None]:
        events.append(f"joined {address}")
        try:
            yield
        finally:
            events.append("left")

    monkeypatch.setattr("jobs.match.MatcherProcess.is_loaded", lambda _process, _seconds: False)
    monkeypatch.setattr("pipeline.cluster.connect.connected", connected)

    with pytest.raises(ValueError, match="absent"):
        run(Config(pairs=pairs, out=str(tmp_path / "run"), matcher=str(tmp_path / "absent"), address="HEAD:6379"))

    assert events == ["joined HEAD:6379", "left"]
    assert not (tmp_path / "run").exists()


def test_few_pairs_are_matched_without_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_image_pairs(tmp_path / "images", 5)
    out = tmp_path / "run"

    assert main(["--pairs", pairs, "--out", str(out), "--matcher", "identity", "--slice-pairs", "2"]) == 0

    assert "5 rows ok, 0 errors" in capsys.readouterr().out
    rows = read_matches(str(out)).to_pylist()
    assert [(row["status"], row["worker"] != f"{socket.gethostname()}:{os.getpid()}") for row in rows] == [
        ("ok", True)
    ] * 5
    (attempt,) = read_attempts(str(out))
    assert attempt.counts == {"ok": 5}


def test_a_run_with_nothing_left_to_do_ends_without_ray(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = _answered(pairs, out)

    assert main(flags) == 0

    assert "3 pairs: 3 done, 0 to do in 0 slices" in capsys.readouterr().out
    assert json.loads((out / "_SUCCESS").read_text())["reasons"] == {"ok": 3}
    (attempt,) = read_attempts(str(out))
    assert attempt.ended is not None


def test_a_run_from_before_points_could_be_asked_goes_on_and_is_told_from_one_with_other_points(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = _answered(pairs, out)
    assert main(flags) == 0
    run_json = json.loads((out / "run.json").read_text())
    assert run_json["config"].pop("points") == "keypoints"
    (out / "run.json").write_text(json.dumps(run_json))

    assert main(flags) == 0
    assert main([*flags, "--points", "grid:3"]) == 2

    said = capsys.readouterr()
    assert said.out.count("3 pairs: 3 done, 0 to do in 0 slices") == 2
    assert "points: 'keypoints' -> 'grid:3'" in said.err


def test_a_run_at_other_points_goes_on_with_them(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shaping = {"directions": ["source_to_target"], "outputs": ["keypoints", "confidence"], "points": ["grid", 3, 1]}
    fingerprint = run_fingerprint(load_matcher("identity").fingerprint, shaping)
    write_part(str(out), match_rows(*({"pair_id": name, "fingerprint": fingerprint} for name in "abc")))
    flags = ["--pairs", pairs, "--out", str(out), "--matcher", "identity", "--points", "grid:3"]

    assert main(flags) == 0

    assert "points grid:3\n3 pairs: 3 done, 0 to do in 0 slices" in capsys.readouterr().out
    assert read_run(str(out)).points == "grid:3"
    assert "points grid:3, run fingerprint" in as_text(read_status(str(out)))


def test_a_finished_run_keeps_its_limit_when_fewer_pairs_are_asked_again(pairs: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = _answered(pairs, out)
    assert main(flags) == 0
    (out / "_SUCCESS").unlink()  # by an attempt with --limit 1 that died

    assert main([*flags, "--limit", "1"]) == 0

    success = json.loads((out / "_SUCCESS").read_text())
    assert (success["limit"], success["reasons"]) == (None, {"ok": 3})
    first, second = read_attempts(str(out))
    assert (first.rows, first.settled) == (second.rows, second.settled) == (3, {"ok": 3})


def test_fewer_pairs_than_an_earlier_attempt_was_asked_for_can_be_finished(pairs: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = _answered(pairs, out)
    assert main([*flags, "--limit", "2"]) == 0
    assert main(flags) == 0
    (out / "_SUCCESS").unlink()
    (part,) = (out / "parts").iterdir()
    kept = pq.read_table(part, partitioning=None).slice(0, 2)
    part.unlink()
    write_part(str(out), kept)

    assert main([*flags, "--limit", "2"]) == 0

    success = json.loads((out / "_SUCCESS").read_text())
    assert (success["limit"], success["reasons"]) == (2, {"ok": 2})
    assert [attempt.rows for attempt in read_attempts(str(out))] == [2, 3, 3]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (["--outputs", "flow", "--dry-run"], "fingerprint is .*outputs: .*'keypoints', 'confidence'.* -> .*'flow'"),
        (["--direction", "both"], "fingerprint is .*direction: 'source_to_target' -> 'both'"),
        (["--points", "grid:2"], "fingerprint is .*points: 'keypoints' -> 'grid:2'"),
        (["--crop", "boxes"], "fingerprint is .*changed: crop: 'none' -> 'boxes'"),
        (["--matcher", "nearest-neighbour:dense-sift"], "fingerprint is .*matcher: 'identity' -> 'nearest-neighbour"),
    ],
)
def test_the_folder_of_another_run_is_refused_and_kept(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], shown: str
) -> None:
    out = tmp_path / "run"
    flags = _answered(pairs, out)
    assert main(flags) == 0
    fingerprint = json.loads((out / "run.json").read_text())["fingerprint"]
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    capsys.readouterr()

    assert main([*flags, *change]) == 2

    _expect_one_line(capsys, f"{out} holds another run: .*{shown}", f"the folder's is {fingerprint}")
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_a_list_given_twice_is_refused_rather_than_half_forgotten(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ["--outputs", "flow", "--outputs=keypoints"]

    assert main(["--pairs", pairs, "--out", str(tmp_path / "run"), *outputs]) == 2

    _expect_one_line(capsys, "--outputs is given more than once")


def test_the_folder_of_another_manifest_is_refused(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = _answered(pairs, tmp_path / "run")
    assert main(flags) == 0
    write_pairs(Path(pairs), [pair_row(name) for name in "abcd"])

    assert main(flags) == 2

    _expect_one_line(capsys, "manifest digest is .*, the folder's is ")


def _expect_one_line(capsys: pytest.CaptureFixture[str], *patterns: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for pattern in patterns:
        assert re.search(pattern, error), error
