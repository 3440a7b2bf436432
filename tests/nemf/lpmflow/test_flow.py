"""From correlations to flows, with known answers."""

import torch

from nemf.lpmflow.flow import FlowIntegration, at_side, flow_of


def test_flow_of_a_sure_correlation_ends_at_its_cell():
    """8 at one target cell and 0 elsewhere: 400 nats."""
    centres = torch.linspace(-1, 1, 4)
    correlation = torch.zeros(1, 16, 16)
    correlation[0, :, 4 * 2 + 3] = 8
    flow = flow_of(correlation, centres, centres)
    x, y = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="xy")
    torch.testing.assert_close(flow[0], torch.stack([3 - x, 2 - y]), atol=1e-5, rtol=0)


def test_flow_of_two_equal_cells_ends_between_them():
    centres = torch.linspace(-1, 1, 4)
    correlation = torch.zeros(1, 16, 16)
    correlation[0, 0, [1, 3]] = 8
    flow = flow_of(correlation, centres, centres)
    torch.testing.assert_close(flow[0, :, 0, 0], torch.tensor([2.0, 0.0]), atol=1e-5, rtol=0)


def test_at_side_keeps_corners_and_sides_apart():
    """Source varies along x, target along y; align-corners keeps the values of the corners."""
    source, target = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 10.0, 10.0])
    fine = at_side((source[:, None] + target)[None], 4).view(4, 4, 4, 4)
    torch.testing.assert_close(fine[2, :, 0, 1], torch.linspace(0, 1, 4))
    torch.testing.assert_close(fine[0, 0, :, 3], torch.linspace(0, 10, 4))


def test_at_side_of_mixed_sizes():
    assert at_side(torch.zeros(2, 4, 16), 4).shape == (2, 16, 16)
    assert at_side(torch.zeros(2, 16, 4), 4).shape == (2, 16, 16)
    same = torch.randn(1, 16, 16)
    assert torch.equal(at_side(same, 4), same)


def test_integration_adds_to_the_last_flow():
    integration = FlowIntegration(dim=16, context_channels=8, windows=(4, 2), heads=2).eval()
    flows = [torch.randn(1, 2, 8, 8) for _ in range(4)]
    with torch.no_grad():
        integration.conv2.weight.zero_()
        integration.conv2.bias.copy_(torch.tensor([1.0, -2.0]))
        flow = integration(flows, torch.randn(1, 5, 16))
    torch.testing.assert_close(flow, flows[3] + torch.tensor([1.0, -2.0]).view(1, 2, 1, 1))
