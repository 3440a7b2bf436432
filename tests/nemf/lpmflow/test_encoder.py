"""The encoder of both images: its region bias."""

import torch

from nemf.lpmflow.encoder import PairEncoder, region_bias, region_index


def test_the_published_indices():
    index = region_index(16)
    assert index.shape == (512, 512)
    assert index[0, 0] == 1920
    assert index[0, 256 + 16 * 15 + 15] == 1
    assert index.max() == 3843


def test_index_is_by_offset_and_images():
    """Query at row 2, column 1 of the target; key at row 0, column 2 of the source."""
    index = region_index(3)
    assert index[9 + 3 * 2 + 1, 2] == 4 * (5 * (2 + 2) + (-1 + 2)) + 2


def test_the_token_of_an_image_has_no_bias():
    index = region_index(2)
    table = torch.arange(3 * 36).view(3, 36) + 1.0
    bias = region_bias(table, index)
    assert bias.shape == (3, 10, 10)
    for token in (0, 5):
        assert not bias[:, token].any()
        assert not bias[:, :, token].any()
    assert bias[2, 1, 9] == table[2, index[0, 7]]
    assert bias[0, 6, 4] == table[0, index[4, 3]]


def test_the_tokens_of_an_image_are_not_those_of_the_other():
    """Equal images: the roles alone make their tokens differ."""
    torch.manual_seed(0)
    encoder = PairEncoder(cells=2, dim=16, depth=1, heads=2, mlp_ratio=2).eval()
    tokens = torch.randn(1, 5, 16)
    source, target = encoder(tokens, tokens)
    assert source.shape == target.shape == (1, 5, 16)
    assert not torch.allclose(source, target)
