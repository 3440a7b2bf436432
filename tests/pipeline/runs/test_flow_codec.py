import numpy as np
import pytest

from pipeline.runs.flow_codec import decode_confidence, decode_flow, encode_confidence, encode_flow


@pytest.mark.parametrize(("longest_px", "scale_px"), [(1.0, 1 / 64), (511.9, 1 / 64), (512.5, 1 / 32), (40_000.0, 2.0)])
def test_the_step_grows_with_the_longest_displacement(longest_px: float, scale_px: float) -> None:
    flow_px = np.array([[[longest_px, -longest_px], [0.3, -0.1]]])

    row = encode_flow(flow_px)

    assert row["flow_scale"] == scale_px
    assert np.abs(decode_flow(row) - flow_px).max() <= scale_px / 2


@pytest.mark.parametrize("hw", [(1, 1), (1, 40), (40, 1), (30, 20)])
def test_what_is_read_is_what_was_written_whatever_the_differences(hw: tuple[int, int]) -> None:
    """Neighbours as far apart as 16 bits allow: their difference does not fit 16 bits, its remainder does."""
    flow_px = np.random.default_rng(0).choice([-511.984375, 511.984375, 0.015625], (*hw, 2))

    assert np.array_equal(decode_flow(encode_flow(flow_px)), flow_px)


def test_a_smooth_flow_takes_little_space() -> None:
    y, x = np.mgrid[:375, :500]
    flow_px = np.stack([20 * np.sin(y / 90) + x * 0.1, 15 * np.cos(x / 70) - y * 0.07], axis=-1)

    assert len(encode_flow(flow_px)["flow"]) < 0.5 * flow_px.size  # a quarter of its 16 bits


def test_confidence_is_exact_to_half_of_a_255th() -> None:
    confidence = np.linspace(0, 1, 12).reshape(3, 4)

    read = decode_confidence({"flow_confidence": encode_confidence(confidence), "flow_hw": [3, 4]})

    assert np.abs(read - confidence).max() <= 0.5 / 255
