"""The LPMFlow authors' network, number for number, on tensors that their own code computed."""

from pathlib import Path

import numpy as np
import torch
from official_lpmflow import official_shapes, official_state_dict

from nemf.checkpoints import from_official_state_dict
from nemf.lpmflow.network import LPMFlow


def test_encoding(shared: Path):
    with np.load(shared / "golden" / "lpmflow_official.npz") as arrays:
        golden = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    model = from_official_state_dict(official_state_dict(official_shapes(), int(golden["weights_seed"])))
    assert isinstance(model, LPMFlow)
    source, target = (
        ((golden[name].permute(2, 0, 1) / 255 - model.backbone.mean) / model.backbone.std)[None]
        for name in ("source_rgb", "target_rgb")
    )
    with torch.inference_mode():
        encoded = model.encode(source, target)
    _assert_close(encoded.backbone_source[0, ::16, ::32], golden["backbone_source_slice"])
    _assert_close(encoded.encoder_source[0, ::16, ::32], golden["encoder_source_slice"])
    _assert_close(encoded.correlation_22[0, ::16, ::16], golden["correlation_22_slice"])
    _assert_close(encoded.flow[0], golden["flow"])


def test_shapes_of_the_official_file(shared: Path):
    rows = [line.split("\t") for line in (shared / "design" / "lpmflow_state_dict.tsv").read_text().splitlines()[1:]]
    published = {name: tuple(map(int, shape.split("x"))) for name, shape, kind in rows if kind != "int64"}
    assert official_shapes() == published


def _assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Within a fraction of the greatest value."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()
