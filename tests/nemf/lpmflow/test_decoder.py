"""The decoder block: its gate, and its correlation."""

import pytest
import torch

from nemf.lpmflow.decoder import Decoder, gate
from nemf.model.attention import Attention


def test_gate():
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0, 1000.0], requires_grad=True)
    gated = gate(values)
    expected = torch.tensor([0.0, 0.0, 0.6279, 0.8625, 0.9975, 1.0])
    torch.testing.assert_close(gated.detach(), expected, atol=1e-4, rtol=0)
    gated.sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_attention_across_sums_to_the_number_of_heads():
    torch.manual_seed(0)
    attention = Attention(dim=16, heads=8)
    read, correlation = attention.across(torch.randn(2, 5, 16), torch.randn(2, 7, 16))
    assert read.shape == (2, 5, 16)
    torch.testing.assert_close(correlation.sum(dim=2), torch.full((2, 5), 8.0))


def test_attention_across_is_self_attention_of_equal_tokens():
    torch.manual_seed(0)
    attention, tokens = Attention(dim=16, heads=4), torch.randn(2, 5, 16)
    torch.testing.assert_close(attention.across(tokens, tokens)[0], attention(tokens))


def test_the_bias_is_added_to_the_logits():
    """A query that may see one key only reads that key's value."""
    torch.manual_seed(0)
    attention, tokens = Attention(dim=8, heads=2), torch.randn(1, 3, 8)
    bias = torch.full((2, 3, 3), -torch.inf)
    bias[:, :, 1] = 0
    value = attention.qkv(tokens)[:, 1, 16:]
    torch.testing.assert_close(attention(tokens, bias), attention.proj(value)[:, None].expand(1, 3, 8))


@pytest.mark.parametrize(("source_side", "target_side"), [(2, 2), (2, 4), (4, 2)])
def test_correlation_of_two_sizes(source_side: int, target_side: int):
    torch.manual_seed(0)
    decoder = Decoder((2, 4), dim=16, heads=8, mlp_ratio=2).eval()
    source, target = torch.randn(1, 1 + source_side**2, 16), torch.randn(1, 1 + target_side**2, 16)
    correlation, source_after, target_after = decoder(source, target)
    assert correlation.shape == (1, source_side**2, target_side**2)
    assert (source_after.shape, target_after.shape) == (source.shape, target.shape)
    sums = correlation.sum(dim=2)
    assert ((sums > 0) & (sums < 8)).all()
