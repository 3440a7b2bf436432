"""The benchmarks run, and compare only equal work; the measured values are not asserted."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from make import encoded as encoded_image
from make import noise_rgb, pair_row, write_image_pairs, write_pairs
from official_nemf import SMALL, official_shapes, official_state_dict
from torch import nn

from benchmarks import (
    ablations,
    calibration,
    comparison,
    decode_counts,
    evaluation,
    flow_storage,
    harness,
    match,
    overhead,
    quality,
    scale,
    search,
)
from benchmarks.inputs import image_pair
from benchmarks.published import PublishedScore, optimise, patchmatch
from benchmarks.queries import counted, flop_per_query
from jobs import train
from jobs.recipes.stages import RecipeOptions, Stage
from nemf import checkpoints, load_matcher
from nemf.calibration import from_json
from nemf.coordinates import px_to_norm
from nemf.lpmflow import presets as lpmflow_presets
from nemf.lpmflow.build import build as build_lpmflow
from nemf.matchers.nemf import NemfMatcher
from nemf.model.network import Encoded, NeMF, initial_field
from nemf.official.names import from_official_state_dict, official_config
from nemf.search.config import SearchConfig
from nemf.search.counter_rng import pair_key, uniform
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.protocols import protocol
from pipeline.io.manifest import INLINE_COLUMNS, read_pairs
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from schemas.pairs import PAIRS

TINY_SEARCH = search.Config(
    preset="nemf-small",
    device="cpu",
    image_hw=(20, 24),
    grid_hw=(6, 8),
    points=2,
    tile=8,
    iterations=2,
    part=100,
    repeats=1,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, since several wait for each other on a busy machine; and no measurement of the machine."""
    monkeypatch.setattr(harness, "matmul_peak", lambda device, dtype=None: 1e11)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> NeMF:
    return from_official_state_dict(official_state_dict(official_shapes(**SMALL), seed=3), 2).requires_grad_(False)


@pytest.fixture(scope="module")
def encoded(model: NeMF) -> Encoded:
    source, target = torch.randn(2, 1, 3, model.image_size, model.image_size, generator=torch.manual_seed(0))
    with torch.no_grad():
        return model.encode(source, target)


@pytest.fixture
def _small_network(model: NeMF, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search uses the small network, whatever the preset."""
    monkeypatch.setattr(search, "random_model", lambda preset, device: model)


def matcher(model: NeMF, iterations: int) -> NemfMatcher:
    return NemfMatcher("m", model, torch.device("cpu"), SearchConfig(patchmatch_steps=iterations, refine_steps=4))


def test_overhead_is_measured_and_written(tmp_path: Path):
    (measured,) = overhead.run(overhead.Config(rows=(50,), images=4, out=str(tmp_path)))

    assert measured.rows == 50
    assert measured.driver_peak_mb > 0
    assert "| 50 |" in (tmp_path / "overhead.md").read_text()


def test_scale_is_measured_and_written(tmp_path: Path):
    (measured,) = scale.run(scale.Config(rows=(60,), images=4, slice_pairs=20, out=str(tmp_path)))

    assert measured.rows == 60
    assert measured.n_parts >= 4  # 30 pairs of each half, in slices of 20 or, near the end of the work, less
    assert "| 60 |" in (tmp_path / "scale.md").read_text()


def test_decode_counts_are_of_what_is_fetched_decoded_and_encoded(tmp_path: Path):
    """60 pairs over 5 images; every fifth pair shows the same image twice."""
    pairs = write_image_pairs(tmp_path / "images", 60)

    measured = decode_counts.run(decode_counts.Config(pairs=pairs, slice_pairs=(20,), out=str(tmp_path)))

    counts = [(m.fetches, m.decodes, m.passes) for m in measured]
    assert counts[0] == pytest.approx((1.8, 1.8, 1.8))
    assert counts[1] == pytest.approx((0.25, 0.25, 3 * (5 + 5 + 5) / 60))  # 8, 8 and 4 of each 20 pairs
    assert max(counts[2]) <= 0.25
    assert counts[2][2] == pytest.approx(5 / 60)  # as far as bytes go
    assert "| jobs.match | 20 |" in (tmp_path / "decode_counts.md").read_text()


def test_flow_storage_is_measured_and_written(tmp_path: Path):
    pairs = write_image_pairs(tmp_path / "images", 3)
    config = flow_storage.Config(pairs=pairs, matcher="nearest-neighbour:dense-sift", limit=2, out=str(tmp_path))

    measured = {one.encoding: one for one in flow_storage.run(config)}

    assert measured["float32"].bytes_a_pixel == 8
    assert measured["float32"].largest_error_px == 0
    for encoding in ("MATCHES", "16-bit PNG, 1/64 px"):
        assert measured[encoding].largest_error_px <= 1 / 128 + 1e-5


@pytest.mark.parametrize("all_columns", [False, True])
def test_evaluation_is_measured_and_written(tmp_path: Path, all_columns: bool):
    config = evaluation.Config(pairs=(60,), replicates=10, all_columns=all_columns, out=str(tmp_path))
    measured = evaluation.run(config)

    assert measured[60].driver_peak_mb > 0
    assert "| 60 | one process |" in (tmp_path / "evaluation.md").read_text()


def test_published_scores_are_ours_however_they_are_chunked(model: NeMF, encoded: Encoded):
    points = torch.rand(2, 1, 250, 2, generator=torch.manual_seed(1)) * 2.2 - 1.1
    ours = model.score(encoded, *points)
    for chunk, part in ((1000, 1000), (100, 30)):
        logits = PublishedScore(model, encoded, chunk=chunk, part=part)(*points)
        assert (logits - ours).abs().max() <= 1e-5 * ours.abs().max()


def test_the_published_search_finds_what_ours_does(model: NeMF, encoded: Encoded):
    hw, iterations = (12, 16), 6
    pair = image_pair(hw, 5, points=None)
    key = torch.tensor([pair_key(0, pair.pair_id)])
    draws = [uniform(key, i, torch.arange(12 * 16)[None]).view(1, *hw, 2) for i in range(iterations)]
    initial = initial_field(encoded, hw)
    (theirs,) = patchmatch(PublishedScore(model, encoded), initial, torch.stack(draws))
    (field,) = matcher(model, iterations).search(encoded, [pair])
    assert (theirs != initial[0]).any(dim=0).float().mean() > 0.9
    assert (theirs == field).all(dim=0).float().mean() >= 0.98  # two scores may tie to rounding


def test_the_published_optimisation_finds_what_ours_does(model: NeMF, encoded: Encoded):
    hw = (12, 16)
    pair = image_pair(hw, 5, points=6)
    field = initial_field(encoded, hw)
    x, y = pair.query_xy_px.astype(int).T
    start, target = field[:, :, y, x].transpose(1, 2), px_to_norm(torch.from_numpy(pair.query_xy_px), hw)[None]
    theirs = optimise(PublishedScore(model, encoded), start, target, steps=4)
    (refined,) = matcher(model, 1).refine(encoded, [field[0]], [pair])
    ours = px_to_norm(torch.from_numpy(refined.reference_xy_px), hw)
    assert (theirs - start).abs().min() > 1e-5
    assert (theirs[0] - ours).abs().max() <= 1e-5


def test_queries_are_counted(model: NeMF, encoded: Encoded):
    n_queries = []

    def score(reference_xy_norm: torch.Tensor, query_xy_norm: torch.Tensor) -> torch.Tensor:
        n_queries.append(reference_xy_norm.shape[1])
        return reference_xy_norm[..., 0]

    patchmatch(score, torch.zeros(1, 2, 7, 9), torch.rand(3, 1, 7, 9, 2))
    assert sum(n_queries) == 6 * 7 * 9 * 3

    # no two pixels start from the same position
    smooth = replace(encoded, with_mean=0.01 * encoded.with_mean)

    def ours(iterations: int, points: list[list[float]] | None) -> int:
        pair = image_pair((15, 25), 0, points=None)
        if points is not None:
            pair = replace(pair, dense=False, query_xy_px=np.array(points, np.float32))
        with counted(model) as count:
            matcher(model, iterations).search(smooth, [pair])
        return count.queries

    # in the first iteration nothing is known: the position of the pixel, of its four neighbours, and a random one
    assert ours(1, None) == 6 * 15 * 25
    assert ours(1, [[3, 4]]) == 6
    assert ours(1, [[3, 4], [20, 10]]) == 12
    assert ours(1, [[3.5, 4]]) == 12
    assert ours(0, None) == 0
    assert 6 * 15 * 25 < ours(2, None) < 2 * 6 * 15 * 25
    assert 6 * 5 < ours(2, [[3, 4]]) <= 6 * (5 + 1)


def test_the_peak_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    measured = harness.Measured(answer=None, seconds=(4.0, 2.0), peak_mb=0, rise_mb=0)
    monkeypatch.setattr(harness, "measure", lambda functions, device, repeats: dict.fromkeys(functions, measured))
    assert harness.matmul_peak(torch.device("cpu")) == 2048**3


def test_memory_of_the_first_run_is_seen():
    def take(megabytes: int) -> int:
        return int(torch.ones(megabytes * 250_000).sum())

    measured = harness.measure({"much": lambda: take(400), "little": lambda: take(40)}, torch.device("cpu"), repeats=2)
    assert measured["much"].answer == 100_000_000
    assert len(measured["much"].seconds) == 2
    assert 300 < measured["much"].rise_mb < 500  # memory freed before may be reused
    assert measured["little"].rise_mb < 100


def test_work_of_other_processes_is_seen():
    load = harness.CompetingLoad()
    subprocess.run([sys.executable, "-c", "x = 0\nfor i in range(10**7): x += i"], check=True)
    assert load.share() > 0.3 / psutil.cpu_count()


def test_arithmetic_of_a_query(model: NeMF):
    layers = 84 * 16 + 3 * (16 * 16 + 2 * 16 * 16) + 16
    assert flop_per_query(model) == 2 * (layers + 16 * 16)


def test_search_compares_and_writes(tmp_path: Path):
    rows = search.run(replace(TINY_SEARCH, out=str(tmp_path)))

    pixels = {row.work: row.queries for row in rows if row.way == "published" and "steps" not in row.work}
    assert list(pixels.values()) == [480, 6 * 6 * 8 * 2, 6 * 20 * 24 * 2, 6 * 20 * 24 * 2]
    table = (tmp_path / "search.md").read_text()
    assert table.count("(inferred)") == 2
    assert "The search for points finds exactly what the dense one finds there" in table
    written = json.loads((tmp_path / "search.json").read_text())
    assert [row["seconds"] for row in written["rows"]] == [row.seconds for row in rows]
    assert written["about"]["network"] == "nemf-small"


@pytest.mark.usefixtures("_small_network")
def test_search_runs_the_published_one_in_full_if_told_to(capsys: pytest.CaptureFixture[str]):
    rows = search.run(replace(TINY_SEARCH, full=True, image_hw=(6, 8)))
    assert not any(row.inferred for row in rows)
    assert capsys.readouterr().out.count("of the places are the same number") == 2


class _OtherScore(PublishedScore):
    def __call__(self, *points: torch.Tensor) -> torch.Tensor:
        return super().__call__(*points) * 1.01


@pytest.mark.usefixtures("_small_network")
@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("PublishedScore", _OtherScore, "logits are apart by 1e-02"),
        ("patchmatch", lambda score, initial, noise: initial, r"dense search, 8 x 6: .*% of the places are the same"),
        ("sample_field", lambda field, xy_px: torch.rand(1, xy_px.shape[1], 2), "what the dense search finds there"),
        ("optimise", lambda score, start, target, steps: start, "optimised points are apart"),
    ],
)
def test_search_gives_no_times_where_answers_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, wrong: object, message: str
):
    monkeypatch.setattr(search, name, wrong)
    with pytest.raises(search.DisagreementError, match=message):
        search.run(TINY_SEARCH)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("_small_network")
@pytest.mark.parametrize("steps", [2, 0])
def test_bfloat16_must_reach_what_float32_does(monkeypatch: pytest.MonkeyPatch, steps: int):
    def on_this_machine(name: str, model: NeMF, device: torch.device, config: SearchConfig) -> NemfMatcher:
        if config.precision == "bfloat16":
            config = replace(config, precision="float32", patchmatch_steps=steps)
        return NemfMatcher(name, model, device, config)

    monkeypatch.setattr(search, "NemfMatcher", on_this_machine)
    bench = search._Bench(TINY_SEARCH)
    if steps == 0:
        with pytest.raises(search.DisagreementError, match=r"places that score 0\.\d+ on average, not 0\.\d+"):
            bench.bfloat16()
        return
    rows, agreement = bench.bfloat16()
    assert [row.way for row in rows] == ["ours, bfloat16"] * 2
    scores = re.findall(r"0\.\d+", agreement)
    assert len(scores) == 2
    assert scores[0] == scores[1]


def test_match_measures_and_names_what_it_left_out(tmp_path: Path):
    config = match.Config(
        presets=("nemf-small",), sizes=("12x10", "24x20"), iterations=2, refine_steps=2, batch=2, repeats=1, points=2
    )
    rows = match.run(replace(config, longest=0, device="cpu", out=str(tmp_path)))

    assert [(row.size, row.mode) for row in rows] == [
        ("12x10", "keypoints"),
        ("12x10", "dense"),
        ("24x20", "keypoints"),
    ]
    assert all(min(row.encode_s, row.search_s, row.refine_s) > 0 for row in rows)
    assert "Left out: nemf-small, 24x20, dense: about" in (tmp_path / "match.md").read_text()
    assert json.loads((tmp_path / "match.json").read_text())["rows"][0]["size"] == "12x10"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "500*375"], "WIDTHxHEIGHT in pixels, such as 500x375; got '500*375'"),
        (["--modes", "sparse"], "there is no mode 'sparse'; there are: keypoints, dense"),
        (["--presets", "large"], "there is no preset 'large'; there are: paper, nemf-small, nemf-mobilenet"),
    ],
)
def test_match_refuses_what_there_is_not(capsys: pytest.CaptureFixture[str], flags: list[str], message: str):
    assert match.main([*flags, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


def test_calibration_fits_the_confidence_of_what_was_matched(
    model: NeMF, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shapes = official_shapes(**SMALL)
    config = official_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, 2)
    checkpoints.save(tmp_path / "model", model, config, search={"patchmatch_steps": 2, "refine_steps": 0})
    images = [encoded_image(noise_rgb(seed, (20, 32))) for seed in range(5)]
    points = np.random.default_rng(0).uniform(0, 19, (5, 2)).tolist()
    rows = [
        pair_row(
            f"{i}",
            source_image=images[i],
            target_image=images[i + 1],
            source_xy_px=points,
            target_xy_px=points,
            keypoint_id=list("abcde"),
            source_box_xyxy=[0, 0, 19, 19],
            target_box_xyxy=[0, 0, 80, 19],
        )
        for i in range(4)
    ]
    rows += [{**rows[0], "pair_id": "broken", "source_image": b"no image"}]
    manifest = write_pairs(tmp_path / "pairs.parquet", rows)
    options = calibration.Config(
        matcher=str(tmp_path / "model"), manifest=manifest, device="cpu", out=str(tmp_path / "confidence.json")
    )
    measured, fitted = calibration.run(options)
    assert [row.name for row in measured] == ["the mass itself", "as it is", "fitted to these pairs", "crosswise"]
    assert measured[0].auroc == measured[1].auroc
    assert measured[2].log_loss <= measured[0].log_loss
    assert "20 answers, " in capsys.readouterr().out
    assert from_json(json.loads((tmp_path / "confidence.json").read_text())) == fitted
    calibration.run(replace(options, crop="both"))
    assert "40 answers, " in capsys.readouterr().out
    with pytest.raises(ValueError, match="--matcher identity has no score maps"):
        calibration.run(replace(options, matcher="identity"))


def test_a_crosswise_confidence_is_that_of_the_other_half():
    """Of the even pairs 3 of 4 answers are right whatever their mass, of the odd ones 1 of 4."""
    is_odd = np.arange(64) % 2 == 1
    correct = (np.arange(64) // 2 % 4 == 0) ^ ~is_odd
    masses = {1.0: np.where(np.arange(64) // 8 % 2, 0.2, 0.8)}
    confidence = calibration._crosswise(masses, correct, is_odd)
    assert confidence[is_odd] == pytest.approx(0.75)
    assert confidence[~is_odd] == pytest.approx(0.25)
    assert np.isnan(calibration._crosswise(masses, is_odd, is_odd)).all()  # a half that is all right teaches nothing


@pytest.mark.parametrize("box", [[0, 0, 29, 19], None], ids=["spair", "pf-willow"])
def test_comparison_measures_a_matcher_as_the_jobs_would(tmp_path: Path, box: list[int] | None):
    """The answers of `identity` are 0, 2 and 4 px off; T is 29 px, of the box or of the keypoints."""
    truth = np.array([[0.0, 0.0], [29.0, 5.0], [10.0, 19.0]])
    asked = truth + np.array([[0.0, 0.0], [-2.0, 0.0], [0.0, -4.0]])
    images = [encoded_image(noise_rgb(seed, (20, 30))) for seed in range(2)]
    rows = [
        pair_row(
            f"{i}",
            source_image=images[0],
            target_image=images[1],
            source_xy_px=asked.tolist(),
            target_xy_px=truth.tolist(),
            target_box_xyxy=box,
        )
        for i in range(3)
    ]
    pairs = read_pairs(write_pairs(tmp_path / "pairs.parquet", rows), PAIRS.names)
    measured = comparison.measured(load_matcher("identity"), pairs)
    assert measured["n_pairs"] == 3
    assert measured["pck"] == pytest.approx({"0.01": 100 / 3, "0.05": 100 / 3, "0.1": 200 / 3})
    row = comparison.Row(
        matcher="m", parameters_millions=1.5, training_steps=None, training_hours=None, manifest="pairs", **measured
    )
    assert (
        "| pairs (3) | m | 33.3 [33.3, 33.3] | 33.3 [33.3, 33.3] | 66.7 [66.7, 66.7] |" in comparison.table([row])[-1]
    )


def test_comparison_trains_for_the_same_hours_by_the_pace_of_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    paces = {"nemf-mobilenet": 1.0, "pmnc-small": 2.0, "lpmflow-small": 8.0}
    stages: list[Stage] = []
    monkeypatch.setattr(comparison, "run_stage", stages.append)
    monkeypatch.setattr(
        comparison,
        "read_history",
        lambda out: {"training": [{"seconds_per_step": paces[Path(out).relative_to(tmp_path).parts[0]]}] * 3},
    )
    options = RecipeOptions(data=tmp_path / "data", out=tmp_path, weights="w", threads=1, bfloat16=True)
    alike = comparison._alike(400, options)
    assert {training.system: training.hours * 3600 for training in alike} == {
        "nemf-mobilenet": 400,
        "pmnc-small": 800,
        "lpmflow-small": 3200,
    }
    before = len(stages)
    longer = comparison._as_long("pmnc-small", alike, options)
    assert [(training.system, training.steps) for training in longer] == [
        ("nemf-mobilenet", 800),
        ("lpmflow-small", 100),
    ]
    assert all(training.hours * 3600 == 800 for training in longer)
    again = stages[before:]
    assert all(isinstance(stage, train.Config) and stage.validation is None for stage in again)
    assert [stage.trainer.steps for stage in again if isinstance(stage, train.Config)] == [600, 200, 50, 50]
    assert not {stage.out for stage in again} & {stage.out for stage in stages[:before]}
    of_alike, of_again = alike[0].stages[1], longer[0].stages[1]
    assert (of_again.pairs, of_again.photographs) == (of_alike.pairs, of_alike.photographs)
    assert of_again.start == f"{longer[0].stages[0].out}/checkpoint"


def test_ablations_change_one_part_of_what_begins_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stages: list[Stage] = []

    def run_stage(stage: Stage) -> None:
        stages.append(stage)
        if stage.out.endswith("descriptors"):
            config = lpmflow_presets.small()
            network = build_lpmflow(config)
            nn.init.constant_(network.backbone.proj.bias, 7.0)
            checkpoints.save(Path(stage.out) / "checkpoint", network, config)

    monkeypatch.setattr(ablations, "run_stage", run_stage)
    monkeypatch.setattr(ablations, "_MODULES", {"no-encoder": "encoder"})
    options = ablations.Config(data=str(tmp_path / "data"), out=str(tmp_path / "out"), weights="w", lpmflow_steps=20)
    variants = list(ablations.trained(options))
    assert [variant.whole for variant in variants] == ["pmnc-small"] * 6 + ["lpmflow-small"] * 3
    assert variants[4].folder == f"{tmp_path}/out/pmnc-small/checkpoint?iterations=0"
    trainings = [stage for stage in stages if isinstance(stage, train.Config)]
    assert [training.trainer.steps for training in trainings] == [100] * 4 + [400] + [20] * 2
    whole, without = trainings[-2:]
    assert replace(without, start=whole.start, out=whole.out) == whole
    begins = checkpoints.load(without.start)
    assert checkpoints.read_config(without.start) == replace(lpmflow_presets.small(), depth=0)
    assert (begins.backbone.proj.bias == 7).all()


def test_ablations_measure_the_difference_from_the_whole(model: NeMF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shapes = official_shapes(**SMALL)
    config = official_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, 2)
    checkpoints.save(tmp_path / "model", model, config, search={"patchmatch_steps": 2, "refine_steps": 0})
    images = [encoded_image(noise_rgb(seed, (20, 32))) for seed in range(4)]
    rows = [
        pair_row(f"{i}", source_image=images[i], target_image=images[i + 1], target_box_xyxy=[0, 0, 200, 19])
        for i in range(3)
    ]
    write_pairs(tmp_path / "val.parquet", rows)
    folder = str(tmp_path / "model")
    variants = [
        ablations.Variant(name="NeMF", whole="NeMF", folder=folder),
        ablations.Variant(name="... other", whole="NeMF", folder=f"{folder}?patchmatch_steps=0"),
    ]
    monkeypatch.setattr(ablations, "trained", lambda config: variants)
    options = ablations.Config(data="d", out=str(tmp_path), weights="w", limit=2, results=str(tmp_path))
    whole, other = ablations.run(options)
    assert whole.n_pairs == 2
    pairs = comparison.some_pairs(f"{tmp_path}/val.parquet", 2)
    matches, _ = comparison.match_keypoints(load_matcher(variants[1].folder), pairs)
    metrics = evaluate(matches, pairs.drop_columns(list(INLINE_COLUMNS)), [protocol("spair")], (0.05, 0.1))
    pck = metrics.to_pandas().query("group_kind == 'all' and subset == 'all'")["pck_image"]
    assert list(other.pck.values()) == pytest.approx(pck.tolist())
    assert other.difference == pytest.approx({alpha: other.pck[alpha] - whole.pck[alpha] for alpha in whole.pck})
    assert whole.low == whole.high == {"0.05": 0.0, "0.1": 0.0}
    assert "| ... other |" in (tmp_path / "ablations.md").read_text()


def test_quality_measures_every_variant_as_the_jobs_would(model: NeMF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shapes = official_shapes(**SMALL)
    config = official_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, 2)
    checkpoints.save(tmp_path / "model", model, config)
    images = [encoded_image(noise_rgb(seed, (20, 32))) for seed in range(4)]
    rows = [
        pair_row(f"{i}", source_image=images[i], target_image=images[i + 1], target_box_xyxy=[0, 0, 200, 19])
        for i in range(3)
    ]
    rows += [{**rows[0], "pair_id": "broken", "source_image": b"no image"}]
    manifest = write_pairs(tmp_path / "pairs.parquet", rows)
    encoded_pairs = []
    encode = NemfMatcher.encode
    monkeypatch.setattr(
        NemfMatcher, "encode", lambda self, pairs, *kept: encoded_pairs.extend(pairs) or encode(self, pairs, *kept)
    )

    options = quality.Config(
        checkpoint=str(tmp_path / "model"), manifest=manifest, protocol="spair", device="cpu", out=str(tmp_path)
    )
    measured = quality.run(options)

    assert [pair.pair_id for pair in encoded_pairs] == ["0", "1", "2"]
    assert [row.variant for row in measured] == list(quality.VARIANTS)
    assert all((row.n_pairs, row.n_failed) == (4, 1) for row in measured)
    by_name = {row.variant: row for row in measured}
    assert by_name["0 iterations"].queries == 0
    assert by_name["5 iterations"].queries < by_name["10 iterations"].queries < by_name["published"].queries
    assert "| no refinement |" in (tmp_path / "quality.md").read_text()
    pairs = read_pairs(manifest, PAIRS.names)
    (chunk,) = decode_rows(pairs, None)
    for row in (by_name["published"], by_name["no refinement"]):
        plain = NemfMatcher("plain", model, torch.device("cpu"), SearchConfig(**row.settings))
        matches = match_chunk(plain, chunk, MatchOptions(), fingerprint="f", attempt=1)
        metrics = evaluate(matches, pairs.drop_columns(list(INLINE_COLUMNS)), [protocol("spair")], (0.1, 0.05))
        overall = metrics.to_pandas().query("group_kind == 'all'")
        assert overall["pck_image"].tolist() == [row.pck["0.05"], row.pck["0.1"]]
        assert 0 < row.pck["0.05"] < row.pck["0.1"]

    some = quality.run(replace(options, variants=("coarse*", "5 iterations"), out=None))
    assert [row.variant for row in some] == ["coarse flow only", "5 iterations"]
    with pytest.raises(ValueError, match="there is no variant '6 it"):
        quality.run(replace(options, variants=("coarse*", "6 it*")))
