import numpy as np
import pytest
import torch

from nemf.model.conv4d import Conv4d, Pool4d, Upsample4d, on_query, on_reference


def volume(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_pooling_keeps_the_greatest_of_sixteen_cells():
    given = volume(2, 3, 4, 6, 8, 2)
    blocks = given.reshape(2, 3, 2, 2, 3, 2, 4, 2, 1, 2)

    assert np.array_equal(Pool4d()(torch.from_numpy(given)), blocks.max(axis=(3, 5, 7, 9)))


def test_upsampling_is_linear_along_each_axis_and_keeps_the_corners():
    given = volume(1, 2, 3, 2, 4, 5)

    actual = Upsample4d()(torch.from_numpy(given)).numpy()

    weights = [doubling(size) for size in given.shape[2:]]
    assert np.allclose(actual, np.einsum("bcijkl,Ii,Jj,Kk,Ll->bcIJKL", given, *weights), atol=1e-5)
    assert np.allclose(actual[..., ::5, ::3, ::7, ::9], given[..., ::2, ::1, ::3, ::4], atol=1e-6)


@pytest.mark.parametrize("channels", [(2, 4), (1, 16), (3, 6)])  # 8, 16 and 18 pairs of channels
def test_the_convolution_is_the_sum_of_one_over_the_reference_and_one_over_the_query(channels: tuple[int, int]):
    torch.manual_seed(0)
    conv = Conv4d(*channels, stride=1)
    given = torch.randn(2, channels[0], 5, 4, 3, 6, requires_grad=True)
    weight = torch.randn(2, channels[1], 5, 4, 3, 6)

    actual = conv(given)
    expected = on_reference(conv.over_source, given) + on_query(conv.over_target, given)

    assert torch.allclose(actual, expected, atol=1e-5)
    variables = [given, *conv.parameters()]
    for one, other in zip(
        torch.autograd.grad((actual * weight).sum(), variables),
        torch.autograd.grad((expected * weight).sum(), variables),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-4)


def doubling(size: int) -> np.ndarray:
    """(2 size, size): what each old cell gives to each new one."""
    positions = np.linspace(0, size - 1, 2 * size)
    return np.stack([np.interp(positions, np.arange(size), one) for one in np.eye(size)], axis=1)
