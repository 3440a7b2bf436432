from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY
from torch import nn

from nemf import ImagePair, checkpoints, load_matcher
from nemf.coordinates import rescale_px
from nemf.matchers.decoded import DecodedMatcher
from nemf.model.build import build

CONFIG = replace(TINY, decoder_channels=8)


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The matcher of a checkpoint of random weights with a decoder."""
    folder = tmp_path_factory.mktemp("checkpoints") / "decoded"
    torch.manual_seed(0)
    model = build(CONFIG)
    nn.init.normal_(model.decoder.output.weight, std=0.1)
    checkpoints.save(folder, model, CONFIG)
    return f"descriptors:{folder}"


def noise(*hw: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


def test_an_image_matches_itself_to_a_part_of_a_cell(name: str):
    """At the centre of a score cell the query is that cell's descriptor, whose cosine with itself is the greatest."""
    matcher = load_matcher(f"{name}?window=0", device="cpu")
    assert isinstance(matcher, DecodedMatcher)
    assert (matcher.cells_hw, matcher.score_hw) == ((8, 8), (32, 32))
    image = noise(64, 96)
    cells = torch.tensor([[5.0, 9], [17, 30], [26, 2]])
    points = rescale_px(cells, (32, 32), (64, 96)).numpy()
    match = matcher.match(image, image, points)
    assert np.allclose(match.reference_xy_px, points, atol=1e-3)
    assert match.answer_grid_hw == (32, 32)


def test_scores_are_the_cosines_of_decoded_descriptors(name: str):
    matcher = load_matcher(name, device="cpu")
    query, reference = noise(40, 60), noise(50, 30, seed=1)
    point = np.array([[33.3, 21.7]], np.float32)
    pair = ImagePair(query_rgb=query, reference_rgb=reference, query_xy_px=point, score_maps=True)
    (scores,) = next(matcher.match_batch([pair])).score_maps
    with torch.inference_mode():
        model = checkpoints.load(name.removeprefix("descriptors:"))
        (own,), (other,) = (
            model.features(
                (torch.from_numpy(matcher._square(rgb)).permute(2, 0, 1)[None] / 255 - model.backbone.mean)
                / model.backbone.std
            )
            for rgb in (query, reference)
        )
        cells = torch.tensor([[(33.3 + 0.5) * 8 / 60 - 0.5, (21.7 + 0.5) * 8 / 40 - 0.5]])
        descriptor = model.decoder(own, torch.zeros(1, dtype=torch.long), cells)[0]
        expected = torch.cosine_similarity(descriptor[:, None, None], model.decoder.grid(other)[0], dim=0)
    assert np.allclose(scores, expected.numpy(), atol=1e-4)


def test_an_answer_does_not_depend_on_its_batch_and_a_reference_is_decoded_once(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    matcher = load_matcher(name, device="cpu")
    images = [noise(40 + 8 * n, 70, seed=n) for n in range(3)]
    rng = np.random.default_rng(0)
    pairs = [
        ImagePair(
            query_rgb=images[i],
            reference_rgb=images[j],
            query_xy_px=rng.uniform(0, 40, (count, 2)).astype(np.float32),
            dense=count == 3,
        )
        for (i, j), count in zip([(0, 1), (1, 0), (2, 1), (0, 2)], [1, 3, 20, 0], strict=True)
    ]
    alone = [next(matcher.match_batch([pair])) for pair in pairs]
    decoded = []
    decode = matcher._decoded
    monkeypatch.setattr(matcher, "_decoded", lambda features: decoded.append(1) or decode(features))
    order = [2, 0, 3, 1, 2]
    mixed = list(matcher.match_batch([pairs[i] for i in order]))
    assert len(decoded) == 3
    for i, match in zip(order, mixed, strict=True):
        for array in ("reference_xy_px", "point_confidence", "flow_px"):
            assert np.array_equal(getattr(match, array), getattr(alone[i], array)), array


def test_the_decoder_is_in_the_fingerprint_and_letterbox_is_refused(name: str, tmp_path: Path):
    model = checkpoints.load(name.removeprefix("descriptors:"))
    with torch.no_grad():
        model.decoder.output.weight += 0.1
    checkpoints.save(tmp_path, model, CONFIG)
    assert load_matcher(name).fingerprint != load_matcher(f"descriptors:{tmp_path}").fingerprint
    match, masses = load_matcher(name).masses(
        ImagePair(query_rgb=noise(9, 9), reference_rgb=noise(9, 9), query_xy_px=np.ones((2, 2), np.float32)), [0.04]
    )
    assert masses.shape == (1, len(match.reference_xy_px)) == (1, 2)
    with pytest.raises(ValueError, match="fit=letterbox is for networks without a decoder"):
        load_matcher(f"{name}?fit=letterbox")
