import fsspec
import pytest

from nemf.io.redact import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ftp://me:pass@word@host/a.jpg: no", "ftp://***@host/a.jpg: no"),
        ("https://ghp_token@host/a", "https://***@host/a"),
        ("https://h/a?w=1&X-Amz-Signature=abc%2F&v=2", "https://h/a?w=1&X-Amz-Signature=***&v=2"),
        ("https://h/a?X-Amz-Credential=AK%2F1&sv=1&sig=a%3D", "https://h/a?X-Amz-Credential=***&sv=1&sig=***"),
        ("'https://h/a?token=abc'", "'https://h/a?token=***'"),
        ("AccountName=me;AccountKey=ab+/cd==;", "AccountName=me;AccountKey=***;"),
        ("<AWSAccessKeyId>AKIAIOSFODNN7EXAMPLE</AWSAccessKeyId>", "<AWSAccessKeyId>***</AWSAccessKeyId>"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ***"),
        ("s3://bucket/key=a/token=b/c.parquet", "s3://bucket/key=a/token=b/c.parquet"),
        ("s3://bucket/a@b.jpg?versionId=12", "s3://bucket/a@b.jpg?versionId=12"),
        ("nemf-small?seed=1&patchmatch_steps=10", "nemf-small?seed=1&patchmatch_steps=10"),
        ("/data/mail me@host.jpg: token: expected", "/data/mail me@host.jpg: token: expected"),
    ],
)
def test_secrets_are_hidden_and_all_else_is_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_the_secrets_in_use_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session/abc")
    options = {"key": "me-myself", "client_kwargs": {"headers": [{"auth": "h1h1h1h1"}]}}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)

    assert redacted("no me-myself with session/abc, h1h1h1h1 at all") == "no *** with ***, *** at all"
