"""The search side by side with the algorithm as published: same network, same pictures, same random draws, one process.

    python -m benchmarks.search --out benchmarks/results

(a) benchmarks.published and (b) nemf.matchers.nemf are timed per query, for whole searches and for the coordinate
optimisation, on a GPU in bfloat16 too. Nothing is printed unless their answers agree: see the constants below. The
network has random weights; speed does not depend on them. About 4 minutes on two cores that do nothing else, 3 GB.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.inputs import encoded_pictures, image_pair, random_model
from benchmarks.published import CHUNK, PublishedScore, optimise, patchmatch
from benchmarks.queries import counted, flop_per_query
from jobs.command import run_command
from nemf.coordinates import pixel_grid, px_to_norm
from nemf.load import find_device
from nemf.matcher import ImagePair
from nemf.matchers.nemf import NemfMatcher
from nemf.model.network import initial_field
from nemf.search.config import SearchConfig
from nemf.search.counter_rng import pair_key, uniform
from nemf.search.sample import sample_field

_LOGITS = 1e-4
"""Maximum difference of logits, as a share of the greatest."""
_PLACES = 0.99
"""Minimum share of equal positions in two fields; rounding decides between almost equal scores, and neighbours
propagate the difference."""
_POINTS_NORM = 1e-5
"""Maximum distance of optimised points, normalised: the published code optimises them together, ours each alone. All
steps together move a point 350 times as far."""
_SMALL_PART = 1000
"""Number of queries at once with which the published algorithm is fastest on a CPU; timed to show the cost of
memory."""
_SCORE = 0.01
"""Maximum loss of the mean score, computed in float32, of positions searched in bfloat16, which rounding changes."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The network, the images and the settings to time."""

    preset: str = "paper"
    """Network, see nemf.model.presets: paper, nemf-small or nemf-mobilenet."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    image_hw: tuple[int, int] = (375, 500)
    """Height and width of the pair's images."""
    grid_hw: tuple[int, int] = (48, 64)
    """Height and width of the images for which whole searches are compared with the published one."""
    points: int = 10
    """Number of keypoints of the pair."""
    tile: int = 4096
    """Number of points optimised at once, as for dense flow."""
    iterations: int = 20
    """Iterations of PatchMatch, and steps of the coordinate optimisation."""
    part: int | None = None
    """Number of queries that the published algorithm has in memory at once, 64 KB each; by default 20,000 on a CPU, on
    a GPU a whole chunk of 100,000."""
    repeats: int = 5
    """Number of runs, whose median is reported; searches of whole images are run once on a CPU."""
    full: bool = False
    """Run the published search of the pair (40 minutes on two cores) instead of inferring its time from that of one
    query."""
    out: str | None = None
    """Folder for search.md and search.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measurements of one operation done in one way."""

    work: str
    way: str
    queries: int
    """Number of scores; for an optimisation the number of scores with gradient, points times steps."""
    seconds: float
    is_optimisation: bool = False
    inferred: bool = False
    """True if the time is inferred from the time per query, not measured."""
    memory_mb: float | None = None
    """Peak memory in addition to the network and the encoded pair."""

    @property
    def seconds_per_query(self) -> float:
        """The mean time of a query."""
        return self.seconds / self.queries


class DisagreementError(RuntimeError):
    """The two ways give different results, so that their times cannot be compared."""


def run(config: Config) -> list[Row]:
    """Measure, check, print. Raises DisagreementError before anything is printed."""
    load, bench = harness.CompetingLoad(), _Bench(config)
    peak = harness.matmul_peak(bench.device)
    parts = [bench.scoring(), bench.grid()]
    parts += [bench.pair(parts[0][0][0].seconds_per_query), bench.optimisation()]
    if bench.device.type == "cuda":
        parts.append(bench.bfloat16())
    rows = [row for part, _ in parts for row in part]
    flop = flop_per_query(bench.model)
    lines = [*_table(rows, flop, peak), "", *(f"* {agreement}" for _, agreement in parts)]
    setup = {
        **harness.describe(bench.device),
        "busy with other work": f"{load.share():.0%}",
        "network": config.preset,
        "FLOP per query": f"{flop:,}",
        "peak": f"{peak / 1e9:,.0f} GFLOP/s (float32 matrix product, measured)",
    }
    harness.write(config.out, "search", setup, lines, [asdict(row) for row in rows])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


class _Bench:
    """The network, the encoded pair, and both ways of searching it. Every method returns rows and a text on how the
    results agree."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = find_device(config.device)
        self.model = random_model(config.preset, self.device)
        self.encoded = encoded_pictures(self.model)
        self.published = PublishedScore(self.model, self.encoded, part=config.part)
        search = SearchConfig(patchmatch_steps=config.iterations, refine_steps=config.iterations)
        self.matcher = NemfMatcher(config.preset, self.model, self.device, search)
        self.few = 0 if self.device.type == "cpu" else config.repeats

    def scoring(self) -> tuple[list[Row], str]:
        """One chunk of queries: the first random candidates of as many pixels."""
        hw = self.config.image_hw
        query = px_to_norm(pixel_grid(hw).view(-1, 2)[:CHUNK], hw).to(self.device)
        initial = _points(initial_field(self.encoded, hw))[: len(query)]
        reference = initial + 0.2 * (self._noise(image_pair(hw, 0, points=None), 1).view(-1, 2)[: len(query)] - 0.5)
        query_index = torch.arange(len(query), device=self.device)
        ours = self.model.scorer(self.encoded, torch.zeros_like(query_index), query)
        in_small_parts = PublishedScore(self.model, self.encoded, part=_SMALL_PART)
        ways = {
            "published": lambda: self.published(reference[None], query[None])[0],
            f"published, but {_SMALL_PART:,} at once": lambda: in_small_parts(reference[None], query[None])[0],
            "ours": lambda: ours(reference, query_index),
        }
        with torch.no_grad():
            measured = harness.measure(ways, self.device, self.config.repeats)
        expected, _, actual = (measured[way].answer for way in ways)
        apart = float((actual - expected).abs().max() / expected.abs().max())
        _agree(apart <= _LOGITS, f"logits are apart by {apart:.0e} of the greatest; {_LOGITS:.0e} is allowed")
        rows = [_row(f"{len(query):,} scores", way, len(query), measured[way]) for way in ways]
        return rows, f"Logits are apart by at most {apart:.0e} of the greatest ({_LOGITS:.0e} allowed)."

    def grid(self) -> tuple[list[Row], str]:
        """Dense searches of a small grid."""
        hw = self.config.grid_hw
        pair = image_pair(hw, 0, points=None)
        work = f"dense search, {hw[1]} x {hw[0]}"
        theirs = self._published_search(pair)
        ours, queries = self._search(pair, self.few)
        return [
            _row(work, "published", 6 * math.prod(hw) * self.config.iterations, theirs),
            _row(work, "ours", queries, ours),
        ], self._same_places(theirs.answer, ours.answer[0], work)

    def pair(self, seconds_per_query: float) -> tuple[list[Row], str]:
        """The search for some points, and for the flow of the whole image."""
        work, dense_work, sparse, dense = self._works()
        ours, queries = self._search(sparse, self.config.repeats)
        ours_dense, dense_queries = self._search(dense, self.few)
        points_px = torch.tensor(sparse.query_xy_px, device=self.device)[None]
        sparse_xy, dense_xy = (sample_field(answer[0][None], points_px) for answer in (ours.answer, ours_dense.answer))
        _agree(
            torch.equal(sparse_xy, dense_xy), "the search for points does not find what the dense search finds there"
        )
        agreement = (
            f"The search for points finds exactly what the dense one finds there, "
            f"with {dense_queries / queries:,.0f} times fewer queries."
        )
        n = 6 * math.prod(self.config.image_hw) * self.config.iterations
        theirs = Row(work=dense_work, way="published", queries=n, seconds=n * seconds_per_query, inferred=True)
        if self.config.full:
            measured = self._published_search(dense)
            theirs = _row(dense_work, "published", n, measured)
            agreement += " " + self._same_places(measured.answer, ours_dense.answer[0], dense_work)
        return [
            replace(theirs, work=work),
            _row(work, "ours", queries, ours),
            theirs,
            _row(dense_work, "ours", dense_queries, ours_dense),
        ], agreement

    def optimisation(self) -> tuple[list[Row], str]:
        """All steps at some points, and at a tile of them."""
        hw, steps = self.config.image_hw, self.config.iterations
        few, many = image_pair(hw, 0, points=self.config.points), image_pair(hw, 0, points=self.config.tile)
        field = initial_field(self.encoded, hw)
        points_px = torch.tensor(few.query_xy_px, device=self.device)
        ways = {
            "published": lambda: optimise(
                self.published, sample_field(field, points_px[None]), px_to_norm(points_px, hw)[None], steps
            ),
            "ours": lambda: self.matcher.refine(self.encoded, [field[0]], [few])[0],
            "tile": lambda: self.matcher.refine(self.encoded, [field[0]], [many])[0],
        }
        measured = harness.measure(ways, self.device, self.config.repeats)
        optimised = px_to_norm(torch.from_numpy(measured["ours"].answer.reference_xy_px), hw)
        apart = float((optimised - measured["published"].answer[0].cpu()).abs().max())
        _agree(apart <= _POINTS_NORM, f"optimised points are apart by {apart:.0e}; {_POINTS_NORM:.0e} is allowed")
        works = [("published", "published", self.config.points), ("ours", "ours", self.config.points)]
        return [
            replace(_row(f"{steps} steps from {n} points", way, n * steps, measured[name]), is_optimisation=True)
            for name, way, n in [*works, ("tile", "ours", self.config.tile)]
        ], f"Optimised points are apart by at most {apart:.0e} of half the image ({_POINTS_NORM:.0e} allowed)."

    def bfloat16(self) -> tuple[list[Row], str]:
        """The searches of the pair with products of matrices in bfloat16."""
        matcher = NemfMatcher("", self.model, self.device, replace(self.matcher.config, precision="bfloat16"))
        sparse_work, dense_work, sparse, dense = self._works()
        measured, queries = self._search(sparse, self.few, matcher)
        measured_dense, dense_queries = self._search(dense, self.few, matcher)
        fields = self.matcher.search(self.encoded, [dense])[0], measured_dense.answer[0]
        aim, reached = (self._mean_score(field) for field in fields)
        _agree(reached >= aim - _SCORE, f"bfloat16 finds places that score {reached:.3f} on average, not {aim:.3f}")
        return [
            _row(sparse_work, "ours, bfloat16", queries, measured),
            _row(dense_work, "ours, bfloat16", dense_queries, measured_dense),
        ], f"In bfloat16 the dense search finds places that score {reached:.4f} on average, in float32 {aim:.4f}."

    def _works(self) -> tuple[str, str, ImagePair, ImagePair]:
        """Names of the search for points and of the dense search, and the pair that each of them matches."""
        hw, n_points = self.config.image_hw, self.config.points
        names = f"search for {n_points} points, {hw[1]} x {hw[0]}", f"dense search, {hw[1]} x {hw[0]}"
        return *names, image_pair(hw, 0, points=n_points), image_pair(hw, 0, points=None)

    def _mean_score(self, field_norm: Tensor) -> float:
        hw = field_norm.shape[1], field_norm.shape[2]
        query = px_to_norm(pixel_grid(hw).view(1, -1, 2), hw).to(self.device)
        return float(self.model.score(self.encoded, field_norm.flatten(1).T[None], query).sigmoid().mean())

    def _published_search(self, pair: ImagePair) -> harness.Measured:
        initial = initial_field(self.encoded, (pair.query_rgb.shape[0], pair.query_rgb.shape[1]))
        noise = self._noise(pair, self.config.iterations)
        way = {"published": lambda: patchmatch(self.published, initial, noise)[0]}
        return harness.measure(way, self.device, repeats=0)["published"]

    def _search(
        self, pair: ImagePair, repeats: int, matcher: NemfMatcher | None = None
    ) -> tuple[harness.Measured, int]:
        """Our search, which answers a list of one field; and how many queries one takes."""
        matcher = matcher or self.matcher
        with counted(matcher.model) as count:
            way = {"ours": lambda: matcher.search(self.encoded, [pair])}
            measured = harness.measure(way, self.device, repeats)["ours"]
        return measured, count.queries // (1 + repeats)

    def _noise(self, pair: ImagePair, iterations: int) -> Tensor:
        """(iterations, 1, H, W, 2): the draws of our search, for the published one."""
        height, width = pair.query_rgb.shape[:2]
        key = torch.tensor([pair_key(self.matcher.config.seed, pair.pair_id)], device=self.device)
        pixel = torch.arange(height * width, device=self.device)[None]
        draws = [uniform(key, iteration, pixel).view(1, height, width, 2) for iteration in range(iterations)]
        return torch.stack(draws)

    def _same_places(self, expected: Tensor, actual: Tensor, work: str) -> str:
        same = float((actual == expected).all(dim=0).float().mean())
        _agree(same >= _PLACES, f"{work}: {same:.2%} of the places are the same; {_PLACES:.0%} must be")
        return f"{work}: {same:.2%} of the places are the same number ({_PLACES:.0%} must be)."


def _points(field_norm: Tensor) -> Tensor:
    return field_norm[0].flatten(1).T


def _agree(agree: bool, otherwise: str) -> None:
    if not agree:
        raise DisagreementError(f"no times are given, since the answers do not agree: {otherwise}")


def _row(work: str, way: str, queries: int, measured: harness.Measured) -> Row:
    return Row(work=work, way=way, queries=queries, seconds=measured.median, memory_mb=measured.rise_mb)


def _table(rows: Sequence[Row], flop: int, peak: float) -> list[str]:
    published = {row.work: row.seconds for row in rows if row.way == "published"}
    lines = [
        "| work | way | queries | seconds | times faster | us/query | of peak | memory, MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        compared = row.way != "published" and row.work in published
        cells = [
            row.work,
            row.way,
            f"{row.queries:,}",
            f"{harness.as_text(row.seconds)}{' (inferred)' if row.inferred else ''}",
            harness.as_text(published[row.work] / row.seconds) if compared else "",
            harness.as_text(row.seconds_per_query * 1e6),
            "" if row.is_optimisation else f"{flop / row.seconds_per_query / peak:.1%}",
            "" if row.memory_mb is None else f"{row.memory_mb:,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
