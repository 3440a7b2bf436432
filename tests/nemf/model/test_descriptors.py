from dataclasses import replace

import torch
from tiny import TINY

from nemf.model.build import build
from nemf.model.descriptors import Descriptors

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_all_maps_are_one_each_of_unit_length():
    model = build(replace(TINY, neck_channels=0))

    with torch.no_grad():
        (joined,) = Descriptors(model)(IMAGE)
        shallow, deep = (torch.nn.functional.normalize(level, dim=1) for level in model.features(IMAGE))

    assert joined.shape == (1, 128 + 256, 8, 8)
    assert torch.allclose(joined[:, :128], shallow, atol=1e-4)
    assert torch.allclose(joined[:, 128:, ::7, ::7], deep[..., ::3, ::3], atol=1e-4)


def test_a_necks_map_is_what_is_correlated():
    model = build(TINY)

    with torch.no_grad():
        (descriptors,), (correlated,) = Descriptors(model)(IMAGE), model.features(IMAGE)

    assert descriptors.shape == (1, 16, 8, 8)
    assert torch.allclose(descriptors, torch.nn.functional.normalize(correlated, dim=1), atol=1e-4)


def test_the_digest_tells_backbone_and_neck_only():
    model = build(TINY)
    original = Descriptors(model).digest()

    def changed(name: str) -> bool:
        with torch.no_grad():
            model.get_parameter(name).add_(1)
        return Descriptors(model).digest() != original

    assert not changed("field.fc_p.weight")
    assert not changed("cost_encoder.aggregator.proj.weight")
    assert changed("neck.inputs.0.weight")
