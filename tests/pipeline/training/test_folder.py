from pathlib import Path

from pipeline.training.folder import weights_files


def test_the_configuration_beside_the_weights_is_an_input_where_there_is_one(tmp_path: Path):
    weights, config = tmp_path / "w.safetensors", tmp_path / "w.json"
    weights.touch()
    assert weights_files(None) == []
    assert weights_files(str(weights)) == [str(weights)]
    config.touch()
    assert weights_files(str(weights)) == [str(weights), str(config)]
