"""The whole chain on s3://, against an S3 server in this process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from make import encoded, noise_rgb
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from jobs import compact, evaluate, match, prepare, report, verify
from nemf import checkpoints, load_matcher
from nemf.model.build import build
from nemf.model.presets import nemf_small
from pipeline.evaluation.evaluate import load_metrics
from pipeline.io import storage
from pipeline.runs.lease import read_attempts
from pipeline.runs.parts import list_parts, read_matches
from schemas.matches import RESULT_COLUMNS

BUCKET = "s3://correspondences"
N_IMAGES = 6
ORDER = [("pair_id", "ascending"), ("direction", "ascending")]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket, configured by the standard variables for this process and its children."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        S3FileSystem.clear_instance_cache()  # those of other tests know another server
        fs, path = storage.open_uri(BUCKET)
        fs.mkdir(path)
        yield BUCKET
    server.stop()


def test_one_of_two_creators_wins(bucket: str) -> None:
    file = storage.join(bucket, "created", "run.json")

    assert storage.write_if_absent(file, b"first")
    assert not storage.write_if_absent(file, b"second")

    assert storage.read_bytes(file) == b"first"


def test_what_other_processes_write_is_seen(bucket: str) -> None:
    folder = storage.join(bucket, "shared")
    mine, theirs = storage.join(folder, "mine.json"), storage.join(folder, "theirs.json")
    storage.write_bytes(mine, b"1")
    assert storage.list_files(folder, ".json") == [mine]
    assert not storage.exists(theirs)

    _in_another_process(f"storage.write_bytes({theirs!r}, b'22'); storage.delete({mine!r})")

    assert storage.list_files(folder, ".json") == [theirs]
    assert (storage.is_file(theirs), storage.exists(theirs), storage.exists(mine)) == (True, True, False)
    assert storage.read_bytes(theirs) == b"22"
    _in_another_process(f"storage.write_bytes({theirs!r}, b'333')")
    fs, path = storage.open_uri(theirs)
    assert fs.size(path) == 3


def _in_another_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", f"from pipeline.io import storage; {code}"], check=True, timeout=60)


def test_a_checkpoint_folder_is_a_matcher(bucket: str, tmp_path: Path) -> None:
    checkpoints.save(tmp_path, build(nemf_small()), nemf_small())
    folder = storage.join(bucket, "checkpoints", "nemf-small")
    for file in tmp_path.iterdir():
        storage.write_bytes(storage.join(folder, file.name), file.read_bytes())

    matcher = load_matcher(f"{folder}?seed=1", device="cpu")

    assert matcher.name == f"{folder}?seed=1"
    assert matcher.fingerprint == load_matcher(f"{tmp_path}?seed=1", device="cpu").fingerprint
    storage.delete(storage.join(folder, "config.json"))
    with pytest.raises(FileNotFoundError, match=rf"{folder}: config\.json is missing; there is model\.safetensors"):
        load_matcher(folder)
    with pytest.raises(FileNotFoundError, match=f"{bucket}/nowhere: there is no such folder"):
        load_matcher(f"{bucket}/nowhere")


def test_prepare_match_evaluate_report(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    root, table, pairs, out, metrics, page = (
        storage.join(bucket, "data", name)
        for name in ("images", "mine.csv", "pairs.parquet", "run", "metrics.parquet", "report.html")
    )
    lines = ["pair_id,source_uri,target_uri,category,source_xy_px,target_xy_px"]
    for index in range(N_IMAGES):
        storage.write_bytes(storage.join(root, f"{index}.png"), encoded(noise_rgb(index, (24, 32))))
        lines.append(f'{index},{index}.png,{(index + 1) % N_IMAGES}.png,noise,"1,2;30,20","1,2;30,20"')
    storage.write_bytes(table, "\n".join(lines).encode())
    flags = ["--pairs", pairs, "--out", out, "--matcher", "identity", "--outputs", "keypoints,flow,confidence"]

    assert prepare.main(["--dataset", "table", "--annotations", table, "--root", root, "--out", pairs]) == 0
    assert match.main([*flags, "--dry-run"]) == 0
    assert storage.list_files(out, "") == []
    process = subprocess.run(
        [sys.executable, "-m", "jobs.match", *flags, "--slice-pairs", "4", "--address", "local"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert evaluate.main(["--matches", out, "--pairs", pairs, "--protocol", "pf-willow-bbox-kp", "--out", metrics]) == 0
    assert report.main(["--metrics", metrics, "--matches", out, "--pairs", pairs, "--out", page]) == 0

    assert f"{N_IMAGES} pairs: 0 done, {N_IMAGES} to do in 2 slices" in process.stdout
    assert verify.run(verify.Config(out=out)).ok == N_IMAGES
    assert (load_metrics(metrics)["pck_image"] == 100).all()
    assert b"data:image/jpeg;base64," in storage.read_bytes(page)

    before, parts = read_matches(out, RESULT_COLUMNS), list_parts(out)
    capsys.readouterr()
    assert match.main(flags) == 0
    assert f"{N_IMAGES} done, 0 to do in 0 slices" in capsys.readouterr().out
    assert read_matches(out, RESULT_COLUMNS).equals(before)
    assert list_parts(out) == parts
    assert [attempt.counts for attempt in read_attempts(out)] == [{"ok": N_IMAGES}, {}]
    assert match.main([*flags, "--direction", "both"]) == 2
    assert f"{out} holds another run: fingerprint is " in capsys.readouterr().err

    assert compact.main([out]) == 0
    assert len(list_parts(out)) == 1 < len(parts)
    assert read_matches(out, RESULT_COLUMNS).sort_by(ORDER).equals(before.sort_by(ORDER))
    assert match.main(flags) == 0
    assert f"{N_IMAGES} done, 0 to do in 0 slices" in capsys.readouterr().out
