from pathlib import Path

import pytest

from pipeline.io.uri_allowlist import check_prefixes, is_allowed


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("s3://bucket/a.jpg", "s3://bucket"),
        ("s3://bucket/a.jpg", "s3://bucket/"),
        ("s3://bucket/a/b.jpg?versionId=1", "s3://bucket/a"),
        ("s3://bucket/100%.jpg", "s3://bucket"),
        ("s3://any/a.jpg", "s3://"),
        ("https://host/img/a.jpg?width=100", "https://host/img"),
    ],
)
def test_what_is_below_a_prefix_is_allowed(uri: str, prefix: str) -> None:
    assert is_allowed(uri, ["s3://other", prefix])


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("s3://bucket-evil/a.jpg", "s3://bucket"),
        ("s3://bucket/ab/1.jpg", "s3://bucket/a"),
        ("s3://bucket/a/../b.jpg", "s3://bucket/a"),
        ("s3://bucket/a/%2e%2e/b.jpg", "s3://bucket/a"),
        ("s3://bucket/a/%252e%252E/b.jpg", "s3://bucket/a"),
        ("https://host/img/..%2fsecret", "https://host/img"),
        ("https://host/img/..\\secret", "https://host/img"),
        ("https://host/img/.\t./secret", "https://host/img"),
        ("https://host@evil/a.jpg", "https://host"),
        ("https://host.evil/a.jpg", "https://host"),
        ("https://host:8080/a.jpg", "https://host"),
        ("https://user@host/a.jpg", "https://host"),
        ("http://host/a.jpg", "https://host"),
        ("HTTPS://evil/a.jpg", "https://host"),
        ("http://169.254.169.254/latest/meta-data", "s3://bucket"),
        ("file:///etc/passwd", "s3://bucket"),
        ("FILE:///etc/passwd", "s3://"),
        ("/etc/passwd", "s3://"),
        ("simplecache::s3://bucket/a.jpg", "s3://bucket"),
        ("zip://a.jpg::s3://bucket/a.zip", "s3://bucket"),
        ("s3://bucket/a.zip::http://evil/a.jpg", "s3://bucket"),
        ("data:image/png;base64,AAAA", "s3://bucket"),
        ("s3a://bucket/a.jpg", "s3://bucket"),
        ("s3://bucket", "s3://bucket/a"),
    ],
)
def test_what_only_looks_so_is_not(uri: str, prefix: str) -> None:
    assert not is_allowed(uri, [prefix])


def test_a_local_name_with_two_colons_is_where_it_leads(tmp_path: Path) -> None:
    for uri in (f"{tmp_path}/scan::0.png", f"file://{tmp_path}/scan::0.png"):
        assert is_allowed(uri, [str(tmp_path)])
        assert not is_allowed(uri, [f"{tmp_path}/other", "s3://bucket"])
    assert not is_allowed(f"simplecache::{tmp_path}/a.png", [str(tmp_path)])
    assert not is_allowed(f"{tmp_path}/a::b/../../c.png", [str(tmp_path)])


def test_local_paths_are_where_they_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "out.jpg").symlink_to("/etc/passwd")
    (images / "in.jpg").symlink_to(images / "a.jpg")
    (tmp_path / "also").symlink_to(images)
    monkeypatch.chdir(tmp_path)

    for inside in ("a.jpg", "in.jpg", "b/../a.jpg", "100%.jpg"):
        assert is_allowed(f"{images}/{inside}", [str(images)]), inside
        assert is_allowed(f"file://{images}/{inside}", [str(images)]), inside
    assert is_allowed("images/a.jpg", [str(images)])
    assert is_allowed(f"{tmp_path}/also/a.jpg", [str(images)])
    assert is_allowed(f"{images}/a.jpg", [f"{tmp_path}/also"])
    for outside in (
        f"{images}/out.jpg",
        f"{images}/../secret.jpg",
        f"{images}-evil/a.jpg",
        f"file:{tmp_path}/secret.jpg",
        f"local://{tmp_path}/secret.jpg",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "~/a.jpg",
        "x://a.jpg",
        "a\0b.jpg",
    ):
        assert not is_allowed(outside, [str(images)]), outside


@pytest.mark.parametrize("prefix", ["", "s3://bucket/../other", "simplecache::s3://bucket", "a\nb"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"^--allow-prefix .* expected a folder, as a path or a URI"):
        check_prefixes(["s3://bucket", prefix])
