import pytest
import torch
import torch.nn.functional as F
from affine_search import Paraboloid, rough, search, true_field
from hypothesis import given, settings
from hypothesis import strategies as st

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.search.counter_rng import pair_key
from nemf.search.patchmatch import patchmatch, search_pixels
from nemf.search.pixel_list import Pixels, pixels_around
from nemf.search.receptive_field import steps_to_points

HW = (9, 13)


def test_an_affine_field_is_recovered():
    start = rough((24, 32))
    assert (start - true_field((24, 32))).abs().mean() > 0.04
    actual = patchmatch(Paraboloid(), start, iterations=60)
    assert (actual - true_field((24, 32))).abs().mean() < 0.01
    assert (actual - true_field((24, 32))).abs().max() < 0.04


def test_one_iteration_by_hand():
    """Three pixels in a row; all want to be at 1. The middle one starts best, the steps are given."""

    def score(reference_xy_norm: torch.Tensor, query_xy_norm: torch.Tensor) -> torch.Tensor:
        return -(reference_xy_norm - 1).abs().sum(dim=-1)

    start = torch.tensor([[[[0.0, 0.5, 0.45]], [[0.0, 0.5, 0.45]]]])
    noise = torch.tensor([[[[[0.75, 0.75], [0.75, 0.25], [0.0, 0.0]]]]])
    actual = patchmatch(score, start, iterations=1, radius_norm=0.1, noise=noise)
    # left: takes 0.5, steps to 0.55, and is brought back to 0 + 0.1
    # middle: keeps 0.5; the step (+0.05, -0.05) is no better; right: takes 0.5, refuses the step to 0.4
    assert torch.allclose(actual, torch.tensor([[[[0.1, 0.5, 0.5]], [[0.1, 0.5, 0.5]]]]))


def test_a_clamped_point_is_scored_again():
    """After the clamp the old score is too good; a neighbour that beats the clamped point must win."""

    def score(reference_xy_norm: torch.Tensor, query_xy_norm: torch.Tensor) -> torch.Tensor:
        return -(reference_xy_norm - 1).abs().sum(dim=-1)

    start = torch.tensor([[[[0.0, 0.5]], [[0.0, 0.5]]]])
    noise = torch.full((2, 1, 1, 2, 2), 0.5)
    noise[1, 0, 0, 0] = 1.0 - 1e-6  # a step of +0.1 that beats the clamped 0.1, but not the 0.5 it came from
    actual = patchmatch(score, start, iterations=2, noise=noise)
    assert torch.allclose(actual[0, :, 0, 0], torch.tensor([0.1, 0.1]))
    assert torch.equal(actual, patchmatch(score, start, iterations=1, noise=noise[:1]))


def test_nothing_leaves_its_radius():
    start = rough(HW, size=0.5)
    actual = patchmatch(Paraboloid(), start, iterations=5, radius_norm=0.03)
    assert (actual - start).abs().max() <= 0.03 + 1e-6
    assert torch.equal(patchmatch(Paraboloid(), start, iterations=0), start)


@pytest.mark.parametrize("hw", [(1, 1), (1, 7), (6, 1), (2, 2)])
def test_grids_with_hardly_a_neighbour(hw: tuple[int, int]):
    score = Paraboloid()
    actual = patchmatch(score, rough(hw), iterations=4)
    query = px_to_norm(pixel_grid(hw), hw).view(1, -1, 2)
    before, after = (score(field.flatten(2).transpose(1, 2), query) for field in (rough(hw), actual))
    assert (after >= before).all()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.integers(0, 6),
    st.lists(st.tuples(st.floats(-3, 16, width=32), st.floats(-3, 12, width=32)), min_size=1, max_size=4),
)
def test_the_receptive_field_gives_exactly_what_the_whole_grid_gives(
    iterations: int, points: list[tuple[float, float]]
):
    points_px = torch.tensor([points, points[::-1]])
    score, start = Paraboloid(), rough(HW, batch=2)
    keys = torch.tensor([3, 4])
    dense = patchmatch(score, start, iterations, pair_keys=keys)
    sparse = patchmatch(score, start, iterations, pair_keys=keys, points_px=points_px)
    read = (steps_to_points(points_px, HW, 0) == 0)[:, None].expand(-1, 2, -1, -1)
    assert read.any()
    assert torch.equal(sparse[read], dense[read])


def test_only_the_diamonds_of_the_receptive_field_are_scored():
    """One pixel far from the border: iteration i of 3 computes the 1 + 4 + 8 .. pixels within 2 - i steps."""
    hw = (21, 21)
    score = Paraboloid()
    patchmatch(score, true_field(hw), iterations=3, points_px=torch.tensor([[[10.0, 10.0]]]))
    own, neighbours, steps = 13, 4 * 13, 13 + 5 + 1
    assert score.n_queries == own + neighbours + steps  # nothing moves, so neighbours are tried once


def test_a_pair_does_not_depend_on_its_batch():
    start = torch.cat([rough(HW, seed=seed) for seed in (1, 2)])
    keys = torch.tensor([pair_key(0, "a"), pair_key(0, "b")])
    together = patchmatch(Paraboloid(), start, 6, pair_keys=keys)
    for index in (0, 1):
        alone = patchmatch(Paraboloid(), start[index : index + 1], 6, pair_keys=keys[index : index + 1])
        assert torch.equal(alone[0], together[index])
    assert not torch.equal(patchmatch(Paraboloid(), start, 6, pair_keys=keys.flip(0)), together)


def test_inputs_that_will_not_do():
    with pytest.raises(ValueError, match=r"noise must have shape \(2, 1, 9, 13, 2\), .* got \(3, 1, 9, 13, 2\)"):
        patchmatch(Paraboloid(), true_field(HW), 2, noise=torch.zeros(3, 1, *HW, 2))
    with pytest.raises(ValueError, match="patchmatch_steps must be a whole number from 0 to 1000; got -1"):
        patchmatch(Paraboloid(), true_field(HW), -1)


def plain_patchmatch(score: Paraboloid, field: torch.Tensor, noise: torch.Tensor, radius: float) -> torch.Tensor:
    """The text of the algorithm: everything scored, every time."""
    start = field
    query = px_to_norm(pixel_grid(field.shape[2:]), field.shape[2:])[None]
    for draw in noise:
        padded = F.pad(field, (1, 1, 1, 1), mode="reflect")
        sides = [padded[:, :, 1:-1, :-2], padded[:, :, 1:-1, 2:], padded[:, :, :-2, 1:-1], padded[:, :, 2:, 1:-1]]
        candidates = torch.stack([field, *sides]).permute(0, 1, 3, 4, 2)
        logits = torch.stack([score(c, query) for c in candidates])
        best = torch.where(
            logits.max(0).values[..., None] == logits[0][..., None],
            candidates[0],
            candidates.gather(0, logits.argmax(0)[None, ..., None].expand(1, -1, -1, -1, 2))[0],
        )
        step = best + 2 * radius * (draw - 0.5)
        best = torch.where((score(step, query) > logits.max(0).values)[..., None], step, best)
        field = best.permute(0, 3, 1, 2).maximum(start - radius).minimum(start + radius)
    return field


@pytest.mark.parametrize("radius", [0.02, 0.1])
def test_known_scores_are_not_computed_again_and_not_missed(radius: float):
    """The same result as from scoring all six candidates of all pixels, where clamps are frequent and where not."""
    start, noise = rough((16, 18), size=0.3), torch.rand(12, 1, 16, 18, 2, generator=torch.Generator().manual_seed(5))
    plain, thrifty = Paraboloid(), Paraboloid()
    expected = plain_patchmatch(plain, start, noise, radius)
    assert torch.equal(patchmatch(thrifty, start, 12, radius, noise), expected)
    assert plain.n_queries == 6 * 12 * 16 * 18
    assert thrifty.n_queries < plain.n_queries


def every_pixel(*sizes: tuple[int, int]) -> Pixels:
    return pixels_around(sizes, [None] * len(sizes), 0, torch.device("cpu"))


def test_images_of_any_sizes_are_searched_together_as_if_alone():
    sizes = [(5, 9), (1, 1), (12, 4)]
    start = [rough(hw)[0] for hw in sizes]
    together = search(every_pixel(*sizes), start, 6)
    for image, hw in enumerate(sizes):
        alone = patchmatch(Paraboloid(), start[image][None], 6, pair_keys=torch.tensor([image]))
        assert together[image].shape == (2, *hw)
        assert torch.equal(together[image], alone[0])


def test_a_neighbour_offset_continues_a_translation():
    """One pixel knows where it is; all others learn it from their neighbours, exactly, without a random step."""
    hw, shift = (5, 6), torch.tensor([0.02, -0.04])
    grid = px_to_norm(pixel_grid(hw), hw)
    pixels = every_pixel(hw)
    position = pixels.xy_norm()
    start = grid.permute(2, 0, 1).clone()
    start[:, 2, 3] += shift

    def score(reference_xy_norm: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
        return -(reference_xy_norm - position[pixel] - shift).abs().sum(dim=-1)

    def still(iteration: int, pixel: torch.Tensor) -> torch.Tensor:
        return torch.full((len(pixel), 2), 0.5)

    actual = search_pixels(score, pixels, pixels.gather([start]), 5, 0.1, still, neighbour_offset=True)
    assert torch.allclose(actual, position + shift, atol=1e-6)
    as_published = search_pixels(score, pixels, pixels.gather([start]), 5, 0.1, still)
    assert not torch.allclose(as_published, position + shift, atol=1e-2)


def test_a_shrinking_radius_shortens_the_steps():
    """A score without slope but for x: every step to the right is taken; the draws are 1, so steps are the radius."""
    pixels = every_pixel((1, 1))
    actual = search_pixels(
        lambda reference, pixel: reference[:, 0],
        pixels,
        torch.zeros(1, 2),
        3,
        0.1,
        lambda iteration, pixel: torch.ones(1, 2),
        radius_decay=0.5,
        start_xy_norm=torch.tensor([[-0.1, -0.1]]),
    )
    assert torch.allclose(actual, torch.full((1, 2), -0.1 + 0.1 + 0.05 + 0.025))


def test_a_score_of_another_dtype_and_noise_of_numpy_will_do():
    start = rough(HW)
    noise = torch.rand(3, 1, *HW, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actual = patchmatch(lambda *points: Paraboloid()(*points).double(), start, 3, noise=noise)
    assert torch.equal(actual, patchmatch(Paraboloid(), start, 3, noise=noise.float()))
    in_double = patchmatch(Paraboloid(), start.double(), 3, noise=noise)
    assert in_double.dtype == torch.float64
    assert torch.allclose(in_double.float(), actual, atol=1e-6)


def test_a_score_that_is_no_number_loses():
    """Half of the reference has none: points there are left for any other, and never taken."""

    def score(reference_xy_norm: torch.Tensor, query_xy_norm: torch.Tensor) -> torch.Tensor:
        assert reference_xy_norm.shape[1] > 0
        score = -reference_xy_norm.abs().sum(dim=-1)
        return torch.where(reference_xy_norm[..., 0] < 0, torch.nan, score)

    start = torch.tensor([[[[-0.04, -0.04, 0.05]], [[0.0, 0.0, 0.0]]]])
    actual = patchmatch(score, start, 8)
    assert (actual[:, 0] >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_field_norm": torch.zeros(2, 4, 5)}, r"must have shape \(B, 2, H, W\); got \(2, 4, 5\)"),
        ({"initial_field_norm": torch.zeros(0, 2, 4, 5)}, r"got \(0, 2, 4, 5\)"),
        ({"points_px": torch.zeros(3, 2)}, r"points_px must be finite and have shape \(1, K, 2\); got \(3, 2\)"),
        ({"points_px": torch.zeros(2, 3, 2)}, r"got \(2, 3, 2\)"),
        ({"points_px": torch.full((1, 3, 2), torch.nan)}, "must be finite"),
    ],
)
def test_tensors_that_will_not_do(arguments: dict[str, torch.Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        patchmatch(Paraboloid(), **{"initial_field_norm": rough(HW), **arguments})
