"""Window blocks, channel gates and the upsampling of tokens."""

import torch

from nemf.lpmflow.window import ChannelGate, Upsampler, WindowBlock, as_map, window_index


def test_window_index():
    index = window_index(3)
    assert index.max() == 24
    assert index[0, 0] == 12
    assert index[3 * 2 + 1, 2] == 5 * (2 + 2) + (-1 + 2)  # row 2, column 1 from row 0, column 2


def test_a_cell_sees_its_window_only():
    torch.manual_seed(0)
    block = WindowBlock(dim=8, window=2, heads=2)
    cells = torch.randn(1, 8, 4, 6)
    changed = cells.clone()
    changed[0, 0, 3, 3] += 1  # a shift of all channels would be normalised away
    with torch.no_grad():
        differs = (block(cells) - block(changed)).abs().amax(dim=1)[0] > 1e-6
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[2:4, 2:4] = True
    assert torch.equal(differs, expected)


def test_equal_windows_give_equal_maps():
    torch.manual_seed(0)
    block = WindowBlock(dim=8, window=2, heads=2)
    tile = torch.randn(1, 8, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(block(tile.repeat(2, 1, 3, 2)), block(tile).repeat(2, 1, 3, 2))


def test_channel_gate_of_zero_weights_is_one_and_a_half():
    gate, cells = ChannelGate(16), torch.randn(2, 16, 3, 3)
    with torch.no_grad():
        gate.fc2.weight.zero_()
        torch.testing.assert_close(gate(cells), 1.5 * cells)


def test_channel_gate_reads_mean_and_maximum():
    gate, cells = ChannelGate(1), torch.tensor([[[[1.0, 3.0]]]])
    with torch.no_grad():
        gate.fc1.weight.fill_(1)
        gate.fc2.weight.fill_(1)
        torch.testing.assert_close(gate(cells), cells * (1 + torch.sigmoid(torch.tensor(2.0 + 3.0))))


def test_upsampler_without_blocks_is_bilinear():
    tokens = torch.tensor([7.0, 0.0, 4.0, 8.0, 12.0]).view(1, 5, 1)
    fine = Upsampler(dim=1, heads=1, n_blocks=0)(tokens)
    assert fine.shape == (1, 17, 1)
    assert fine[0, 0, 0] == 7
    assert as_map(fine)[0, 0, 0].tolist() == [0, 1, 3, 4]
    assert as_map(fine)[0, 0, :, 0].tolist() == [0, 2, 6, 8]


def test_upsampler_with_blocks():
    torch.manual_seed(0)
    fine = Upsampler(dim=16, heads=2, n_blocks=2)(torch.randn(2, 17, 16))
    assert fine.shape == (2, 65, 16)
    assert fine.isfinite().all()
