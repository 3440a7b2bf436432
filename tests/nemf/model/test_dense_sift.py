import torch

from nemf.model.dense_sift import dense_sift


def test_descriptors_lie_on_the_centres_of_the_cells():
    """The cells changed by a dot in the middle of the image are symmetric about the middle of the map."""
    image = torch.zeros(1, 3, 64, 64)
    image[..., 31:33, 31:33] = 1
    touched = dense_sift()(image)[0][0].norm(dim=0) > 0
    assert touched.shape == (16, 16)
    assert touched.any()
    assert torch.equal(touched, touched.flip(0))
    assert torch.equal(touched, touched.flip(1))


def test_a_place_without_contrast_has_no_descriptor():
    assert not dense_sift()(torch.full((1, 3, 32, 48), 0.4))[0].any()


def test_brightness_and_contrast_do_not_matter():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    backbone = dense_sift()
    assert torch.allclose(backbone(image)[0], backbone(0.3 + 0.5 * image)[0], atol=1e-4)
