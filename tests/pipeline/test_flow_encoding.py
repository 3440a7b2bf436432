import numpy as np
import pytest

from pipeline.flow_encoding import decode_confidence, decode_flow, encode_confidence, encode_flow


@pytest.mark.parametrize(("longest_px", "scale_px"), [(1.0, 1 / 64), (511.9, 1 / 64), (512.5, 1 / 32), (40_000.0, 2.0)])
def test_the_step_grows_with_the_longest_displacement(longest_px: float, scale_px: float) -> None:
    flow_px = np.array([[[longest_px, -longest_px], [0.3, -0.1]]])

    row = encode_flow(flow_px)

    assert row["flow_scale"] == scale_px
    assert np.abs(decode_flow(row) - flow_px).max() <= scale_px / 2


def test_confidence_is_exact_to_half_of_a_255th() -> None:
    confidence = np.linspace(0, 1, 12).reshape(3, 4)

    read = decode_confidence({"flow_confidence": encode_confidence(confidence), "flow_hw": [3, 4]})

    assert np.abs(read - confidence).max() <= 0.5 / 255
