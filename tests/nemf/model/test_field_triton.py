"""The kernel against the field it stands for: interpreted by Triton on the CPU, and compiled where there is a GPU."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402

from nemf.model import field_triton  # noqa: E402
from nemf.model.field import Field  # noqa: E402
from nemf.model.field_triton import KernelWeights, score  # noqa: E402
from nemf.model.quadrilinear import corners  # noqa: E402
from nemf.model.scorer import CostTable, QueryScorer  # noqa: E402

HAS_GPU = torch.cuda.is_available()
Score = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Score]:
    """`score` in a process of its own: Triton decides when it is imported whether it interprets kernels."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            process.submit(int).result()
        yield lambda *args, **kwargs: process.submit(score, *args, **kwargs).result()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not HAS_GPU, reason="needs a GPU"))])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(device: str, request: pytest.FixtureRequest) -> Score:
    """`score` of tensors on that device."""
    return score if device == "cuda" else request.getfixturevalue("interpreted")


@dataclass
class Case:
    """Random reference points, inside and outside, each at one of a few query points of two pairs."""

    field: Field
    volume: torch.Tensor
    pair: torch.Tensor
    query_xy_norm: torch.Tensor
    reference_xy_norm: torch.Tensor
    query_index: torch.Tensor

    @staticmethod
    def random(
        *,
        channels: int,
        hidden: int,
        n_blocks: int,
        n_frequencies: int = 10,
        reference_hw: tuple[int, int] = (5, 6),
        n: int = 150,
    ) -> "Case":
        torch.manual_seed(0)
        return Case(
            Field(
                correlation_channels=channels,
                cost_channels=channels,
                hidden=hidden,
                n_blocks=n_blocks,
                n_frequencies=n_frequencies,
            ),
            torch.randn(2, channels, *reference_hw, 7, 4),
            torch.randint(2, (7,)),
            2.4 * torch.rand(7, 2) - 1.2,
            2.4 * torch.rand(n, 2) - 1.2,
            torch.randint(7, (n,)),
        )

    def to(self, device: str) -> "Case":
        return Case(**{name: value.to(device) for name, value in vars(self).items()})

    def expected(self, *, positional_gradient: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and gradient by the field itself: of all points in both pairs, one of which is a point's own."""
        reference = self.reference_xy_norm.clone().requires_grad_()
        both = (2, len(reference), 2)
        logits = self.field(
            self.volume,
            reference.expand(both),
            self.query_xy_norm[self.query_index].expand(both),
            positional_gradient=positional_gradient,
        )[self.pair[self.query_index], torch.arange(len(reference))]
        return logits.detach(), torch.autograd.grad(logits.sum(), reference)[0]

    @torch.no_grad()
    def arguments(self, dtype: torch.dtype) -> tuple[Any, ...]:
        """The kernel's arguments."""
        channels, *sizes = self.volume.shape[1:]
        cell, weight = corners(self.query_xy_norm, (sizes[2], sizes[3]))
        return (
            KernelWeights.from_field(self.field, dtype),
            self.volume.movedim(1, -1).reshape(-1, channels).to(dtype),
            (sizes[0], sizes[1]),
            sizes[2] * sizes[3],
            self.reference_xy_norm,
            self.query_index,
            self.pair[:, None] * (sizes[0] * sizes[1] * sizes[2] * sizes[3]) + cell,
            weight,
            self.field.fc_p.bias + self.field.encode(self.query_xy_norm) @ self.field.fc_p.weight.T.chunk(2)[1],
        )


def error(actual: torch.Tensor | None, expected: torch.Tensor) -> torch.Tensor:
    """Differences as shares of the standard deviation of the expected values."""
    assert actual is not None
    return (actual.cpu() - expected).abs() / expected.std()


SMALL = {"channels": 12, "hidden": 128, "n_blocks": 2}
PUBLISHED = {"channels": 64, "hidden": 256, "n_blocks": 3}
ODD = {"channels": 20, "hidden": 16, "n_blocks": 1, "n_frequencies": 16, "reference_hw": (1, 6)}


@pytest.mark.parametrize(
    ("sizes", "positional_gradient"), [(SMALL, False), (SMALL, True), (PUBLISHED, False), (ODD, True)]
)
def test_in_float32_it_is_the_field(interpreted: Score, sizes: dict[str, Any], positional_gradient: bool):
    case = Case.random(**sizes)
    logits, gradient = interpreted(
        *case.arguments(torch.float32), gradient=True, positional_gradient=positional_gradient
    )
    expected_logits, expected_gradient = case.expected(positional_gradient=positional_gradient)
    assert error(logits, expected_logits).max() < 1e-4
    assert error(gradient, expected_gradient).max() < 1e-4


def test_in_bfloat16_it_is_close(run: Score, device: str):
    """A gradient is off where rounding turns a rectifier on or off: by a third of the spread, at the worst points."""
    case = Case.random(**PUBLISHED)
    logits, gradient = run(*case.to(device).arguments(torch.bfloat16), gradient=True)
    expected_logits, expected_gradient = case.expected(positional_gradient=False)
    assert error(logits, expected_logits).max() < 2e-2
    assert error(gradient, expected_gradient).square().mean().sqrt() < 0.1


def test_an_answer_does_not_depend_on_the_others(run: Score, device: str):
    """Alone, or of more tiles than there are programs, in another order: equal to the last bit."""
    n = 300 if device == "cpu" else 100_000
    case = Case.random(**SMALL, n=n).to(device)
    *prepared, xy_norm, query_index, row, weight, hidden = case.arguments(torch.bfloat16)
    all_logits, all_gradients = run(*prepared, xy_norm, query_index, row, weight, hidden, gradient=True)
    some = torch.tensor([n - 1, 3, 128], device=device)
    for chosen in (some, some[:1]):
        logits, gradient = run(*prepared, xy_norm[chosen], query_index[chosen], row, weight, hidden, gradient=True)
        assert torch.equal(logits, all_logits[chosen])
        assert torch.equal(gradient, all_gradients[chosen])


def test_without_gradient(interpreted: Score):
    arguments = Case.random(**SMALL).arguments(torch.float32)
    logits, gradient = interpreted(*arguments, gradient=False)
    assert gradient is None
    assert torch.equal(logits, interpreted(*arguments, gradient=True)[0])


def test_the_search_can_score_by_it(run: Score, device: str):
    """QueryScorer passes the kernel the arguments that it expects."""
    case = Case.random(**SMALL).to(device)
    fused = partial(run, KernelWeights.from_field(case.field.requires_grad_(False)))
    table = CostTable.of_cells(case.volume.permute(0, 4, 5, 2, 3, 1), case.pair, case.query_xy_norm)
    scorer = QueryScorer(case.field, table, case.query_xy_norm, fused=fused)
    reference = case.reference_xy_norm.clone().requires_grad_()
    logits = scorer(reference, case.query_index)
    (gradient,) = torch.autograd.grad(logits.sum(), reference)
    expected_logits, expected_gradient = case.expected(positional_gradient=False)
    assert error(logits.detach(), expected_logits.cpu()).max() < 2e-2
    assert error(gradient, expected_gradient.cpu()).square().mean().sqrt() < 0.1
    with torch.no_grad():
        assert torch.equal(scorer(reference, case.query_index), logits)


def test_no_points_at_all(interpreted: Score):
    logits, gradient = interpreted(*Case.random(**SMALL, n=0).arguments(torch.float32), gradient=True)
    assert logits.shape == (0,)
    assert gradient is not None
    assert gradient.shape == (0, 2)


def test_far_outside_nothing_is_interpolated(interpreted: Score):
    case = Case.random(**SMALL, n=4)
    case.reference_xy_norm = torch.tensor([[-30.0, 0.1], [30.0, 0.1], [0.1, -30.0], [1e9, 1e9]])
    logits, gradient = interpreted(*case.arguments(torch.float32), gradient=True)
    assert error(logits, case.expected(positional_gradient=False)[0]).max() < 1e-4
    assert gradient is not None
    assert gradient.eq(0).all()


def test_a_point_that_is_not_a_number_has_no_score(interpreted: Score):
    case = Case.random(**SMALL, n=3)
    case.reference_xy_norm[1, 0] = torch.nan
    logits, _ = interpreted(*case.arguments(torch.float32), gradient=False)
    assert logits.isnan().tolist() == [False, True, False]


def test_a_width_it_cannot_take_is_refused():
    field = Field(correlation_channels=4, cost_channels=4, hidden=48, n_blocks=1, n_frequencies=2)
    with pytest.raises(ValueError, match="power of two from 16 to 512, got 48"):
        KernelWeights.from_field(field)


def test_the_largest_program_fits_a_hopper_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The kernel compiles for a GPU, which needs none; it is not run."""
    programs = []
    kernel = field_triton._score_tiles
    monkeypatch.setattr(
        field_triton, "_score_tiles", {(1,): lambda *a, **k: programs.append(kernel.warmup(*a, grid=(1,), **k))}
    )
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", Hopper())
    score(*Case.random(**PUBLISHED, n=1).arguments(torch.bfloat16), gradient=True, positional_gradient=True)
    assert programs[0].metadata.shared <= 227 * 1024
    assert "wgmma.mma_async" in programs[0].asm["ptx"]


class Hopper:
    """The part of a GPU driver that Triton needs to compile for it."""

    def get_current_device(self) -> str:
        return "of sm_90"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)
