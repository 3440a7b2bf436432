import json
from pathlib import Path

import pytest

from nemf import load_matcher


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"format": "other-1"}', "must be a JSON object whose format is one of nemf-1.*; got 'other-1'"),
        ('{"format": 3}', "got '3'"),
        ("{}", "got 'None'"),
        ("[]", r"must be a JSON object with a format; got \[\]"),
        ("{", "config.json: not JSON"),
    ],
)
def test_a_folder_of_no_known_network(content: str, fault: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=fault):
        load_matcher(str(tmp_path))


def test_a_format_of_its_own_errors(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"format": "nemf-1"}))
    with pytest.raises(ValueError, match="backbone_config must be a JSON object; got null"):
        load_matcher(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        load_matcher(f"{tmp_path.as_uri()}/none")
