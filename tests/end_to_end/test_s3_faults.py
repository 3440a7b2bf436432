"""A run on a store that fails often gives the same result as a run on a sound one."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from faulty_s3 import (
    FaultyS3,
    Request,
    cut,
    denied,
    expired,
    faulty_s3,
    internal_error,
    lost_reply,
    refusal,
    reset_in_body,
    slow_down,
)
from make import encoded, noise_rgb, pair_row, write_pairs
from s3fs import S3FileSystem

from jobs import match, verify
from nemf import load_matcher
from nemf.io.store_errors import CredentialsError
from pipeline.io import storage
from pipeline.io.manifest import read_rows
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.runs.folder import read_run
from pipeline.runs.parts import list_parts, read_matches
from schemas.matches import RESULT_COLUMNS

BUCKET = "s3://failing"
FILE = f"{BUCKET}/runs/x/run.json"
REQUEST = "/failing/runs/x/run.json$"
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG"
N_IMAGES, N_PAIRS = 8, 32


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    """A faulty store, configured by the standard variables for this process and its children."""
    with faulty_s3() as faulty, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", faulty.url)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        S3FileSystem.clear_instance_cache()  # those of other tests know another server
        fs, path = storage.open_uri(BUCKET)
        fs.mkdir(path)
        yield faulty


@pytest.fixture
def s3(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The store without faults at first; waits are short in this process."""
    monkeypatch.setattr("nemf.io.retry.FIRST_WAIT_SECONDS", 0.01)
    server.reset()
    storage.delete(FILE)
    server.reset()
    yield server
    server.reset()


@pytest.mark.parametrize("fault", [slow_down, internal_error, lost_reply])
def test_a_file_is_created_once_however_often_it_is_put(s3: FaultyS3, fault: Callable[[Request], None]) -> None:
    s3.once(f"PUT {REQUEST}", fault, fault)

    assert storage.write_if_absent(FILE, b"mine")
    assert not storage.write_if_absent(FILE, b"theirs")

    assert storage.read_bytes(FILE) == b"mine"


def test_a_conflict_of_creators_is_settled_by_asking_again(s3: FaultyS3) -> None:
    s3.once(f"PUT {REQUEST}", refusal(409, "ConditionalRequestConflict"))

    assert storage.write_if_absent(FILE, b"mine")


def test_of_creators_at_the_same_time_one_wins(s3: FaultyS3) -> None:
    s3.at_random(0.3, 1, slow_down, lost_reply)
    won: list[int] = []

    def create(number: int) -> None:
        if storage.write_if_absent(FILE, b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [b"%d" % number for number in won] == [storage.read_bytes(FILE)]


@pytest.mark.parametrize("fault", [slow_down, internal_error, lost_reply, cut, reset_in_body])
def test_reading_waits_for_what_may_pass(s3: FaultyS3, fault: Callable[[Request], None]) -> None:
    storage.write_bytes(FILE, b"content")
    s3.once(f"(GET|HEAD) {REQUEST}", fault, fault)

    assert storage.read_bytes(FILE) == b"content"
    s3.once(f"(GET|HEAD) {REQUEST}", slow_down)
    assert storage.is_file(FILE)
    s3.once("GET /failing$", slow_down)
    assert storage.list_files(f"{BUCKET}/runs/x", "") == [FILE]
    s3.once("POST /failing$", slow_down)
    storage.delete(FILE)
    s3.once(f"(GET|HEAD) {REQUEST}", slow_down)
    assert not storage.exists(FILE)


def test_a_file_is_read_by_one_request_even_if_it_is_empty(s3: FaultyS3) -> None:
    for content in (b"", b"content"):
        storage.write_bytes(FILE, content)
        s3.reset()

        assert storage.read_bytes(FILE) == content

        assert s3.requests.total() == 1


def test_what_is_down_is_not_taken_for_empty(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemf.io.retry.TRIES", 2)
    s3.always(" /", slow_down)

    for ask in (storage.exists, storage.is_file, storage.read_bytes, storage.file_names):
        with pytest.raises(OSError, match=f"^{FILE}: "):
            ask(FILE)


@pytest.mark.parametrize(
    "ask",
    [storage.read_bytes, lambda uri: storage.write_bytes(uri, b""), lambda uri: storage.write_if_absent(uri, b"")],
)
def test_what_will_not_pass_names_the_file_and_is_asked_once(s3: FaultyS3, ask: Callable[[str], object]) -> None:
    s3.always(f" {REQUEST}", denied)

    with pytest.raises(PermissionError, match=f"^{FILE}: "):
        ask(FILE)

    assert s3.requests.most_common(1)[0][1] == 1


def test_expired_credentials_say_what_to_do(s3: FaultyS3) -> None:
    s3.always(f" {REQUEST}", expired)

    for ask in (storage.read_bytes, storage.exists, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(CredentialsError, match=f"^{FILE}: .*renew them and run the command again$"):
            ask(FILE)


def test_a_run_on_a_failing_store_is_a_run(s3: FaultyS3, tmp_path: Path) -> None:
    """The store's address and keys are in --storage-options only, and the workers get them from there."""
    rows = [
        pair_row(str(n), source_uri=f"{n % N_IMAGES}.png", target_uri=f"{(n + n // N_IMAGES) % N_IMAGES}.png")
        for n in range(N_PAIRS)
    ]
    rows[5]["source_uri"] = "absent.png"
    rows[6]["source_uri"] = "secret.png"
    rows[7]["source_uri"] = "s3://failing-evil/0.png"
    for n in range(N_IMAGES):
        storage.write_bytes(f"{BUCKET}/images/{n}.png", encoded(noise_rgb(n, (24, 32))))
    storage.write_bytes(f"{BUCKET}/images/secret.png", b"")
    local = write_pairs(tmp_path / "pairs.parquet", rows)
    pairs, out, images = f"{BUCKET}/pairs.parquet", f"{BUCKET}/runs/faulty", f"{BUCKET}/images"
    storage.write_bytes(pairs, Path(local).read_bytes())
    flags = ["--pairs", pairs, "--out", out, "--matcher", "identity", "--image-root", images, "--slice-pairs", "8"]
    flags += ["--address", "local", "--allow-prefix", images, f"{BUCKET}/elsewhere"]
    keys = {"endpoint_url": s3.url, "key": KEY, "secret": SECRET, "client_kwargs": {"region_name": "us-east-1"}}
    (tmp_path / "options.json").write_text(json.dumps({"s3": keys}))
    flags += ["--storage-options", f"@{tmp_path}/options.json"]
    s3.always("GET /failing/images/secret.png", denied)

    s3.always("GET /failing/images/7.png", expired)
    first = _match(flags)

    assert first.returncode == 2, first.stderr
    assert first.stderr.splitlines()[-1].startswith(f"error: {images}/7.png: ")
    assert first.stderr.splitlines()[-1].endswith("renew them and run the command again")
    assert "7.png" not in str(read_matches(out)["error_message"].to_pylist() if list_parts(out) else "")

    s3.reset()
    s3.always("GET /failing/images/secret.png", denied)
    s3.at_random(0.2, 7, slow_down, internal_error, lost_reply, cut, reset_in_body)
    second = _match(flags)
    failed = s3.n_failed
    s3.reset()

    assert second.returncode == 0, second.stderr
    assert failed > 20
    assert read_matches(out, RESULT_COLUMNS).equals(_expected(s3, local, images, out))
    assert verify.run(verify.Config(out=out)).reasons == {
        "fetch: not_allowed": 1,
        "fetch: not_found": 1,
        "fetch: permission_denied": 1,
        "ok": N_PAIRS - 3,
    }
    said = first.stdout + first.stderr + second.stdout + second.stderr
    assert SECRET not in said + storage.read_bytes(f"{out}/run.json").decode()


def _match(flags: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs the job without any AWS variable, and looks for secrets in the files of its Ray."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # of a short name, for the sake of sockets
        command = [sys.executable, "-m", "jobs.match", *flags]
        environment["RAY_TMPDIR"] = folder
        process = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        logs = [file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()]
    assert len(logs) > 5
    assert not any(secret.encode() in log for log in logs for secret in (KEY, SECRET))
    return process


def _expected(s3: FaultyS3, local: str, images: str, out: str) -> pa.Table:
    """The matches of a process without faults and without Ray."""
    s3.always("GET /failing/images/secret.png", denied)
    (rows,) = read_rows(local, 0, np.arange(N_PAIRS))
    chunks = decode_rows(rows, images, allowed_prefixes=[images, f"{BUCKET}/elsewhere"])
    options = match.Config(pairs=local, out=out).options
    fingerprint = read_run(out).fingerprint
    tables = [
        match_chunk(load_matcher("identity"), chunk, options, fingerprint=fingerprint, attempt=1) for chunk in chunks
    ]
    return pa.concat_tables(tables).sort_by([("pair_id", "ascending")]).select(RESULT_COLUMNS)
