from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from jobs import match
from jobs.command import as_json, run_command
from pipeline.io import storage
from pipeline.io.storage_options import use_options, worker_environment

SECRET = "wJalrXUtnFEMI"


@pytest.fixture(autouse=True)
def _configuration() -> Iterator[None]:
    """fsspec's configuration is the process': put back what was there."""
    earlier = dict(fsspec.config.conf)
    yield
    fsspec.config.conf.clear()
    fsspec.config.conf.update(earlier)


def test_options_hold_for_what_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text(f'{{"s3": {{"key": "me", "secret": "{SECRET}"}}}}')

    use_options('{"s3": {"endpoint_url": "http://here:9000"}}')
    use_options(f"@{file}")
    use_options(None)

    fs, _ = storage.open_uri("s3://bucket/a")
    assert (fs.endpoint_url, fs.key, fs.secret) == ("http://here:9000", "me", SECRET)


def test_options_of_botocore_and_ours_go_together() -> None:
    use_options('{"s3": {"config_kwargs": {"read_timeout": 7}}}')

    fs, _ = storage.open_uri("s3://bucket/a", retries=False)

    assert fs.config_kwargs == {"read_timeout": 7, "retries": {"total_max_attempts": 1}}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("{", "--storage-options: expected JSON: Expecting"),
        ("[1]", "--storage-options: expected JSON objects by scheme"),
        ('{"s3": 1}', "--storage-options: expected JSON objects by scheme"),
        ('{"s4": {}}', "--storage-options: there is no scheme s4"),
        (f'{{"s3": {{"secret": "{SECRET}"}}}}', "--storage-options holds a secret"),
        (f'{{"http": {{"headers": {{"Authorization": "{SECRET}"}}}}}}', "--storage-options holds a secret"),
    ],
)
def test_options_that_cannot_be_are_refused(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}") as error:
        use_options(given)

    assert SECRET not in str(error.value)
    assert worker_environment() is None or "s4" not in fsspec.config.conf


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        use_options(f"@{tmp_path}/nothing.json")


def test_workers_are_told_by_a_function_that_shows_nothing() -> None:
    assert worker_environment() is None
    fsspec.config.conf["s3"] = {"secret": SECRET}

    environment = worker_environment()
    fsspec.config.conf.clear()

    assert environment is not None
    assert environment.keys() == {"worker_process_setup_hook"}
    assert SECRET not in repr(environment)


def test_workers_have_what_the_job_had() -> None:
    fsspec.config.conf["s3"] = {"secret": SECRET}
    environment = worker_environment()
    assert environment is not None
    fsspec.config.conf["s3"] = {"anon": False}

    environment["worker_process_setup_hook"]()

    assert fsspec.config.conf["s3"] == {"anon": False, "secret": SECRET}


@dataclass(frozen=True, kw_only=True)
class Config:
    out: str
    """Somewhere."""


def test_every_job_takes_options_and_its_config_holds_none(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Config] = []

    def run(config: Config) -> None:
        seen.append(config)

    assert run_command(Config, run, ["--out", "a", "--storage-options", '{"s3": {"anon": true}}']) == 0

    assert seen == [Config(out="a")]
    assert type(seen[0]) is Config
    assert fsspec.config.conf["s3"] == {"anon": True}
    assert run_command(Config, run, ["--out", "a", "--storage-options", "{"]) == 2
    assert capsys.readouterr().err.startswith("error: --storage-options: expected JSON")


def test_errors_and_run_json_hold_no_secret_of_a_uri(capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"https://me:{SECRET}@host/pairs.parquet?sig={SECRET}"

    def fail(_config: Config) -> None:
        raise ValueError(f"{uri} is not good")

    assert run_command(Config, fail, ["--out", uri]) == 2

    shown = "https://***@host/pairs.parquet?sig=***"
    assert capsys.readouterr().err == f"error: {shown} is not good\n"
    settings = as_json(match.Config(pairs=uri, out="runs/x", allow_prefix=(uri,)))
    assert (settings["pairs"], settings["out"], settings["allow_prefix"]) == (shown, "runs/x", (shown,))
