import torch

from nemf.search.sample import sample_field


def test_reading_a_field_between_its_pixels():
    field = torch.stack([torch.arange(12.0).view(3, 4), -torch.arange(12.0).view(3, 4)])[None]
    xy_px = torch.tensor([[[2.0, 1.0], [1.5, 0.0], [1.25, 1.5], [-4.0, 0.0], [9.0, 7.0]]])
    expected = [6.0, 1.5, 7.25, 0.0, 11.0]
    assert sample_field(field, xy_px)[0].tolist() == [[value, -value] for value in expected]
