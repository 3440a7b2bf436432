"""Fetching images from stores that fail: the requests that are repeated, and the errors in the rows."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import numpy as np
import pytest
from faulty_s3 import (
    FaultyS3,
    Request,
    cut,
    denied,
    drip,
    expired,
    faulty_s3,
    internal_error,
    lost_reply,
    refusal,
    reset_in_body,
    slow_down,
)
from installed import needs
from make import encoded, noise_rgb, pair_row, write_pairs

from nemf.io.store_errors import CredentialsError
from pipeline.io import images, storage
from pipeline.io.images import ImageError, fetch_image
from pipeline.io.manifest import Manifest, read_rows
from pipeline.io.storage_options import use_options
from pipeline.matching.decode import decode_rows

PICTURE = encoded(noise_rgb(0))
URI = "s3://images/a.png"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    with faulty_s3() as faulty, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", faulty.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").clear_instance_cache()  # those of other tests know another server
        fs, _ = storage.open_uri(URI)
        fs.mkdir("images")
        storage.write_bytes(URI, PICTURE)
        storage.write_bytes("s3://images/empty.png", b"")
        yield faulty


@pytest.fixture
def s3(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> FaultyS3:
    monkeypatch.setattr("nemf.io.retry.FIRST_WAIT_SECONDS", 0.01)
    server.reset()
    return server


def test_an_image_costs_one_request(s3: FaultyS3) -> None:
    assert fetch_image(URI) == PICTURE

    assert s3.requests == {"GET /images/a.png": 1}


def test_an_empty_object_is_empty(s3: FaultyS3) -> None:
    assert fetch_image("s3://images/empty.png") == b""


def test_the_name_of_an_object_may_contain_two_colons(s3: FaultyS3) -> None:
    storage.write_bytes("s3://images/scan::0.png", PICTURE)

    assert fetch_image("s3://images/scan::0.png") == PICTURE
    assert "scan::0.png" in storage.file_names("s3://images")


@pytest.mark.parametrize("fault", [slow_down, internal_error, lost_reply, cut, reset_in_body])
def test_what_may_pass_is_asked_again(s3: FaultyS3, fault: Callable[[Request], None]) -> None:
    s3.once("GET /images/a.png", fault, fault)

    assert fetch_image(URI) == PICTURE

    assert s3.requests == {"GET /images/a.png": 3}


@pytest.mark.parametrize(
    ("fault", "kind", "requests"),
    [
        (slow_down, "unavailable", 3),
        (lost_reply, "unavailable", 6),  # aiohttp itself asks again where a connection that it kept was closed
        (cut, "truncated", 3),
        (reset_in_body, "truncated", 3),
        (refusal(408, "RequestTimeout"), "timeout", 3),
    ],
)
def test_what_does_not_pass_is_an_error(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Request], None], kind: str, requests: int
) -> None:
    monkeypatch.setattr("nemf.io.retry.TRIES", 3)
    s3.always("GET /images/a.png", fault)

    with pytest.raises(ImageError, match=f"^{URI}: ") as error:
        fetch_image(URI)

    assert error.value.failure[:2] == ("fetch", kind)
    assert s3.requests == {"GET /images/a.png": requests}


@pytest.mark.parametrize(
    ("uri", "fault", "kind"),
    [
        (URI, denied, "permission_denied"),
        ("s3://images/absent.png", None, "not_found"),
        ("s3://no-such-bucket/a.png", None, "not_found"),
        ("s3://NOT a bucket/a.png", None, "bad_uri"),
    ],
)
def test_what_will_not_pass_is_asked_once(s3: FaultyS3, uri: str, fault: Callable[[Request], None], kind: str) -> None:
    if fault:
        s3.always("GET /images/a.png", fault)

    with pytest.raises(ImageError, match=f"^{uri}: ") as error:
        fetch_image(uri)

    assert error.value.failure[:2] == ("fetch", kind)
    assert s3.requests.total() <= 1


def test_a_slow_drip_is_cut(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "FETCH_SECONDS", 0.5)
    s3.always("GET /images/a.png", drip)

    with pytest.raises(ImageError, match=f"^{URI}: not there within 0.5 s$") as error:
        fetch_image(URI)

    assert error.value.failure.kind == "timeout"
    assert s3.requests == {"GET /images/a.png": 1}


def test_a_large_object_is_not_read(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(PICTURE) - 1)

    with pytest.raises(ImageError, match=f"more than the {len(PICTURE) - 1} bytes") as error:
        fetch_image(URI)

    assert error.value.failure.kind == "too_large"


def test_expired_credentials_are_no_fault_of_a_pair(s3: FaultyS3, tmp_path: Path) -> None:
    s3.always("GET /images/a.png", expired)
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row("p", source_uri=URI, target_uri=URI)])
    (rows,) = read_rows(pairs, 0, np.array([0]))

    with pytest.raises(CredentialsError, match=rf"^{URI}: .*ExpiredToken.* expired\.: .*renew them and run"):
        list(decode_rows(rows, None))

    assert s3.requests == {"GET /images/a.png": 1}


def test_missing_credentials_are_no_fault_of_a_pair(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    fsspec.filesystem("s3").clear_instance_cache()

    with pytest.raises(CredentialsError, match="Unable to locate credentials"):
        fetch_image(URI)

    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A web server with redirections, errors and slow replies."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class _Page(BaseHTTPRequestHandler):
    seen: list[str] = []  # noqa: RUF012
    authorization: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.authorization.append(self.headers["Authorization"])
        name = self.path.partition("?")[0].strip("/")
        if name == "moved":
            self._head(302, Location="/secret")
        elif name == "endless":
            self._head(200)
            with suppress(ConnectionError):
                for _ in range(1000):
                    self.wfile.write(b"x" * 1000)
        elif name == "busy" and self.seen.count(self.path) < 3:
            self._head(503)
        elif name.isdigit():
            self._head(int(name))
        elif name == "short":
            self._head(200, **{"Content-Length": str(len(PICTURE))})
            self.wfile.write(PICTURE[:20])
        else:
            self._head(200, **{"Content-Length": str(len(PICTURE))})
            self.wfile.write(PICTURE)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Logs nothing."""


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        ("404", "not_found"),
        ("403", "permission_denied"),
        ("401", "permission_denied"),
        ("400", "unreadable"),
        ("500", "unavailable"),
        ("short", "truncated"),
    ],
)
def test_a_web_page_that_is_no_image(web: str, monkeypatch: pytest.MonkeyPatch, page: str, kind: str) -> None:
    monkeypatch.setattr("nemf.io.retry.TRIES", 1)

    with pytest.raises(ImageError, match=f"^{web}/{page}") as error:
        fetch_image(f"{web}/{page}?X-Amz-Signature=abcdef0123456789")

    assert error.value.failure.kind == kind
    assert "abcdef" not in error.value.failure.message


def test_a_web_server_is_waited_for(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemf.io.retry.FIRST_WAIT_SECONDS", 0.01)

    assert fetch_image(f"{web}/busy") == PICTURE

    assert _Page.seen.count("/busy") == 3


def test_an_endless_page_is_not_read_to_its_end(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 5000)

    with pytest.raises(ImageError, match="more than the 5000 bytes that are read at most") as error:
        fetch_image(f"{web}/endless")

    assert error.value.failure.kind == "too_large"


def test_a_redirection_does_not_lead_out_of_a_prefix(web: str) -> None:
    assert fetch_image(f"{web}/moved") == PICTURE
    _Page.seen.clear()

    with pytest.raises(ImageError, match="302 Found, and no redirection is followed") as error:
        fetch_image(f"{web}/moved", [web])

    assert error.value.failure.kind == "not_allowed"
    assert _Page.seen == ["/moved"]


def test_what_is_not_allowed_is_not_asked_for(web: str) -> None:
    _Page.seen.clear()

    with pytest.raises(ImageError, match=rf"not below {web}/images \(--allow-prefix\)$") as error:
        fetch_image(f"{web}/secret", [f"{web}/images"])

    assert error.value.failure[:2] == ("fetch", "not_allowed")
    assert _Page.seen == []
    assert fetch_image(f"{web}/images/a.png", [f"{web}/images"]) == PICTURE


@needs("pyarrow", "26", "asks for the columns of a file one by one")
def test_a_manifest_costs_few_requests(s3: FaultyS3, tmp_path: Path) -> None:
    """The first request for a file this small has all of it."""
    uri = "s3://images/pairs.parquet"
    local = write_pairs(tmp_path / "pairs.parquet", [pair_row(str(n)) for n in range(4000)], row_group_size=1000)
    storage.write_bytes(uri, Path(local).read_bytes())
    s3.reset()

    with Manifest(uri) as manifest:
        assert len(manifest.ids()) == 4000
        assert manifest.digest() == Manifest(local).digest()
        assert len(list(manifest.windows(["source_uri", "target_uri"], 65_536))) == 4
    assert s3.requests == {"HEAD /images/pairs.parquet": 2, "GET /images/pairs.parquet": 1}

    s3.reset()
    assert [rows.num_rows for rows in read_rows(uri, 2, np.arange(128))] == [128]
    assert s3.requests["GET /images/pairs.parquet"] == 2


def test_images_are_fetched_side_by_side_and_not_all_at_once(
    s3: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, most = [0], [0]

    def slow_fetch(_uri: str, allowed_prefixes: object) -> bytes:
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.05)
        now[0] -= 1
        return PICTURE

    monkeypatch.setattr("pipeline.matching.decode.fetch_image", slow_fetch)
    pairs = [pair_row(str(n), source_uri=f"s3://images/{n}.png", target_uri=f"s3://images/t{n}.png") for n in range(16)]
    manifest = write_pairs(tmp_path / "pairs.parquet", pairs)
    (rows,) = read_rows(manifest, 0, np.arange(16))

    chunks = list(decode_rows(rows, None))

    assert sum(len(chunk.pairs) for chunk in chunks) == 16
    assert 1 < most[0] <= 8


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/a%2Fb.png?sig=a%2Bb%2f%3D%7E&x=%20+y", None),
        ("/a'b(1).png?list[]=1&t=1:2,3", None),
        ("/a b/ü.png?q=ö", "/a%20b/%C3%BC.png?q=%C3%B6"),
        ("/100%.png", "/100%25.png"),
    ],
)
@pytest.mark.parametrize("read", [fetch_image, storage.read_bytes])
def test_a_url_is_sent_as_it_was_given(web: str, given: str, sent: str | None, read: Callable[[str], bytes]) -> None:
    """Signatures are of those characters; what no URL may hold is percent-encoded."""
    _Page.seen.clear()

    assert read(f"{web}{given}") == PICTURE

    assert set(_Page.seen) == {sent or given}


@pytest.fixture
def _file_system_options() -> Iterator[None]:
    """fsspec's configuration is the process': put back what was there."""
    earlier = dict(fsspec.config.conf)
    yield
    fsspec.config.conf.clear()
    fsspec.config.conf.update(earlier)


@pytest.mark.usefixtures("_file_system_options")
def test_headers_of_the_storage_options_are_sent(web: str, tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text('{"http": {"headers": {"Authorization": "Bearer of-the-tests"}}}')
    use_options(f"@{file}")
    _Page.authorization.clear()

    assert fetch_image(f"{web}/headers.png") == storage.read_bytes(f"{web}/headers.png") == PICTURE

    assert set(_Page.authorization) == {"Bearer of-the-tests"}


@pytest.mark.usefixtures("_file_system_options")
def test_a_proxy_of_the_storage_options_is_asked(web: str) -> None:
    use_options(f'{{"http": {{"proxy": "{web}"}}}}')
    _Page.seen.clear()

    assert fetch_image("http://elsewhere.invalid/a.png") == PICTURE

    assert _Page.seen == ["http://elsewhere.invalid/a.png"]


@pytest.mark.usefixtures("_file_system_options")
def test_a_url_is_percent_encoded_never_if_the_storage_options_say_so(web: str) -> None:
    use_options('{"http": {"encoded": true}}')
    _Page.seen.clear()

    assert fetch_image(f"{web}/100%.png") == PICTURE

    assert _Page.seen == ["/100%.png"]
