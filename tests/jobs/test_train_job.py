"""jobs.train: a small run learns, is killed and resumes; bad input is refused before anything starts."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from make import encoded, pair_row, write_pairs
from tiny import TINY
from torch import nn

from jobs.command import as_json, parse
from jobs.train import Config, main
from nemf import checkpoints, load_matcher
from nemf.model.build import build
from nemf.training.config import LossConfig, TrainerConfig
from nemf.training.initialization import initialize_at_correlation
from nemf.training.rng import generator_of
from nemf.training.warps import WarpConfig, warped_pair
from pipeline.training.dataset import ImageCache, TrainingPairs
from pipeline.training.folder import open_training, read_history, read_state
from pipeline.training.worker import WorkerContext, train

STEPS = 60
ALONE = WorkerContext(rank=0, n_workers=1, device=torch.device("cpu"))


def _write_planted(folder: Path) -> str:
    """A manifest of two pictures of smooth colours with their warped copies, and of one row that cannot be used."""
    rows = [pair_row("lost", source_uri="lost.png", target_uri="0-source.png")]
    for number in range(2):
        coarse = torch.rand(1, 3, 7, 9, generator=generator_of("picture", number))
        picture = nn.functional.interpolate(coarse, (60, 80), mode="bicubic", align_corners=True).clamp(0, 1)
        rgb = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
        example = warped_pair(rgb, 8, generator_of("warp", number), WarpConfig())
        columns: dict[str, Any] = {}
        for side, view in (("source", example.reference), ("target", example.query)):
            (folder / f"{number}-{side}.png").write_bytes(encoded(view.rgb))
            columns |= {f"{side}_uri": f"{number}-{side}.png", f"{side}_xy_px": view.xy_px.tolist()}
            columns[f"{side}_box_xyxy"] = [0.0, 0.0, 79.0, 59.0]
        rows.append({"pair_id": f"planted-{number}", "dataset": "planted", **columns})
    return write_pairs(folder / "pairs.parquet", rows)


SETTINGS = {
    "pairs": ("a", "b"),
    "out": "run",
    "weights": (),
    "photographs": (),
    "image_root": None,
    "names_across_categories": False,
    "start": "nemf-small",
    "backbone": None,
    "cost_features": None,
    "image_size": None,
    "backbone_weights": None,
    "steps": 10_000,
    "batch_size": 8,
    "lr": 3e-5,
    "backbone_lr": None,
    "lora_rank": 0,
    "warmup_steps": 0,
    "final_lr_share": 1.0,
    "ema_decay": 0.999,
    "field_weight": 1.0,
    "flow_weight": 1.0,
    "descriptor_weight": 0.0,
    "contrast_weight": 0.05,
    "negatives": 99,
    "hard": 0.5,
    "augment": True,
    "warp_share": 0.0,
    "bfloat16": False,
    "seed": 0,
    "search": (),
    "validation": None,
    "validation_pairs": 100,
    "protocol": "spair",
    "log_every": 10,
    "checkpoint_every": 200,
    "validate_every": 1000,
    "device": "auto",
    "workers": 1,
    "threads": 1,
    "loaders": 1,
    "address": None,
}
"""The settings in run.json for the default flags; a run with others cannot be resumed, which CHANGELOG.md then says."""


def test_each_flag_is_a_setting_of_the_same_name(capsys: pytest.CaptureFixture[str]):
    assert as_json(parse(Config, ["--pairs", "a,b", "--out", "run"], "train")[0]) == SETTINGS
    other = ["--steps", "7", "--ema-decay", "0.5", "--negatives", "19", "--bfloat16", "--weights", "1", "2"]
    changed = {"steps": 7, "ema_decay": 0.5, "negatives": 19, "bfloat16": True, "weights": (1.0, 2.0)}
    assert as_json(parse(Config, ["--pairs", "a", "b", "--out", "run", *other], "train")[0]) == SETTINGS | changed

    with pytest.raises(SystemExit):
        main(["--help"])
    flags = set(re.findall(r"^. --(?!no-)([a-z][a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE))
    assert flags == {name.replace("_", "-") for name in SETTINGS} | {"storage-options"}


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags, without --out, of a run that starts from a tiny network."""
    folder = tmp_path_factory.mktemp("planted")
    pairs = _write_planted(folder)
    torch.manual_seed(0)
    model = build(TINY)
    initialize_at_correlation(model)
    checkpoints.save(folder / "tiny", model, TINY)
    files = ["--pairs", pairs, "--validation", pairs, "--image-root", str(folder), "--start", str(folder / "tiny")]
    learning = f"--steps {STEPS} --batch-size 2 --lr 2e-3 --ema-decay 0.5 --negatives 19 --warp-share 0.1 --no-augment"
    rhythm = "--log-every 1 --checkpoint-every 10 --validate-every 30 --validation-pairs 5 --protocol nemf"
    return [*files, *learning.split(), *rhythm.split()]


def _start(flags: list[str], out: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.train", *flags, "--out", str(out), "--address", "local"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def finished(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed once, with its Ray, and run again on another."""
    out = tmp_path_factory.mktemp("finished") / "run"
    log = out.with_suffix(".log")
    job = _start(flags, out)
    deadline = time.monotonic() + 100
    try:
        while not (out / "state.pt").exists():
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
    finally:
        _kill(job)
    assert not (out / "_SUCCESS").exists()
    step = torch.load(out / "state.pt", weights_only=True)["trainer"]["step_number"]
    assert 10 <= step < STEPS

    assert _start(flags, out).wait(300) == 0, log.read_text()
    return out


def _kill(job: subprocess.Popen) -> None:
    """Send SIGKILL to the job, which may have ended, and to every process it started."""
    processes: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        processes = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    job.wait(30)
    psutil.wait_procs(processes, timeout=30)


def _history(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The history without the columns that depend on the machine's speed."""
    return {
        kind: [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]
        for kind, rows in read_history(str(out)).items()
    }


def _same_run(finished: Path, out: Path) -> Config:
    """The finished run in another folder, saving its state at the end only."""
    shutil.copy(finished / "run.json", out)
    settings = json.loads((finished / "run.json").read_text())["settings"]
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    loss = LossConfig(**{field.name: settings.pop(field.name) for field in fields(LossConfig)})
    names = [field.name for field in fields(TrainerConfig) if field.name in settings]
    trainer = TrainerConfig(**{name: settings.pop(name) for name in names}, loss=loss)
    return Config(**settings, trainer=trainer, out=str(out), checkpoint_every=1000)


def test_killed_and_run_again_the_history_is_that_of_a_run_nobody_touched(finished: Path, tmp_path: Path):
    """Ray does not change the result: the other run is in this process."""
    shown: list[dict[str, Any]] = []
    train(_same_run(finished, tmp_path), ALONE, shown.append, lambda: False)

    assert _history(finished) == _history(tmp_path)
    assert [row["step"] for row in shown] == [0, *range(1, 31), 30, *range(31, STEPS + 1), STEPS]
    for file in ("model.safetensors", "config.json"):
        assert (finished / "checkpoint" / file).read_bytes() == (tmp_path / "checkpoint" / file).read_bytes()


def test_asked_to_stop_it_saves_its_state_first(finished: Path, tmp_path: Path):
    shown: list[dict[str, Any]] = []

    train(_same_run(finished, tmp_path), ALONE, shown.append, lambda: len(shown) == 3)

    assert read_state(str(tmp_path))["trainer"]["step_number"] == 3
    assert _history(tmp_path)["training"] == _history(finished)["training"][:3]
    assert not (tmp_path / "checkpoint").exists()


def test_a_small_run_learns_and_says_how(finished: Path):
    history = _history(finished)

    losses = [row["total"] for row in history["training"]]
    assert [row["step"] for row in history["training"]] == list(range(1, STEPS + 1))
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    assert [row["step"] for row in history["validation"]] == [30, STEPS]
    assert history["validation"][-1]["pck@0.1"] > 20  # before training it is 0; with the lost pair at most 67
    assert [row["n_failed"] for row in history["validation"]] == [1, 1]
    (unusable,) = history["unusable"]
    assert unusable["pair_id"] == "lost"
    assert "lost.png: there is no such file" in unusable["reason"]
    assert "1 row could not be used" in finished.with_suffix(".log").read_text()
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((finished / "tensorboard").iterdir())) == 2  # one for each attempt


def _stage(flags: list[str], start: Path, out: Path, **trainer: Any) -> Path:
    """The checkpoint of a run in this process, from another checkpoint, with these fields of TrainerConfig."""
    pairs, image_root = (flags[flags.index(name) + 1] for name in ("--pairs", "--image-root"))
    config = Config(
        pairs=(pairs,),
        image_root=image_root,
        start=str(start),
        out=str(out),
        trainer=TrainerConfig(warmup_steps=5, final_lr_share=0.05, ema_decay=0.8, **trainer),
        batch_size=2,
        augment=False,
        log_every=1,
    )
    open_training(config.out, {"settings": as_json(config), "inputs": {}})
    train(config, ALONE, lambda _: None, lambda: False)
    return out / "checkpoint"


def _pck(flags: list[str], matcher_name: str) -> float:
    """Percentage of planted points matched within a tenth of the reference's longer side."""
    matcher = load_matcher(matcher_name, device="cpu")
    pairs = TrainingPairs(flags[1], flags[flags.index("--image-root") + 1], ImageCache())
    hits = []
    for example in (pairs.example(1), pairs.example(2)):
        match = matcher.match(example.query.rgb, example.reference.rgb, example.query.xy_px)
        distance_px = np.linalg.norm(match.reference_xy_px - example.reference.xy_px, axis=1)
        hits.append(distance_px <= 0.1 * max(example.reference.hw))
    return 100 * float(np.concatenate(hits).mean())


def test_descriptors_are_learnt_and_then_a_field_behind_them(flags: list[str], tmp_path: Path):
    """The field's loss starts near log 20 = 3.0."""
    tiny = Path(flags[flags.index("--start") + 1])
    search = "?patchmatch_steps=3&refine_steps=0"
    assert _pck(flags, f"descriptors:{tiny}") < 80
    assert _pck(flags, f"{tiny}{search}") < 20

    loss = LossConfig(field_weight=0.0, flow_weight=0.0, descriptor_weight=1.0)
    first = _stage(flags, tiny, tmp_path / "first", steps=40, lr=3e-3, backbone_lr=1e-3, loss=loss)

    losses = [row["descriptor"] for row in read_history(str(tmp_path / "first"))["training"]]
    assert losses[0] > 2.5
    assert losses[-1] < 1.5
    assert _pck(flags, f"descriptors:{first}") > 90

    second = _stage(flags, first, tmp_path / "second", steps=60, lr=4e-3, loss=LossConfig(negatives=19))

    rows = read_history(str(tmp_path / "second"))["training"]
    assert rows[0]["field"] > 2.7
    assert rows[-1]["field"] < 1
    assert rows[-1]["flow"] < 0.3
    assert _pck(flags, f"{second}{search}") > 80
    before, after = checkpoints.load(first), checkpoints.load(second)
    kept = before.backbone.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in after.backbone.state_dict().items())


def test_the_checkpoint_is_a_matcher(finished: Path, flags: list[str]):
    matcher = load_matcher(f"{finished / 'checkpoint'}?patchmatch_steps=1&refine_steps=0", device="cpu")
    rgb = np.zeros((20, 30, 3), np.uint8)

    assert matcher.match(rgb, rgb, [[3, 4]]).reference_xy_px.shape == (1, 2)
    start = flags[flags.index("--start") + 1]
    before, after = (checkpoints.load(folder).state_dict() for folder in (start, finished / "checkpoint"))
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert changed
    assert not any(name.startswith("backbone") for name in changed)


@pytest.fixture
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("this must not need Ray")

    monkeypatch.setattr("ray.init", refuse)


@pytest.mark.usefixtures("_no_ray")
def test_a_finished_run_is_left_alone(finished: Path, flags: list[str], capsys: pytest.CaptureFixture[str]):
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}

    assert main([*flags, "--out", str(finished)]) == 0

    assert f"after {STEPS} steps" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before


@pytest.mark.usefixtures("_no_ray")
def test_another_configuration_is_refused(finished: Path, flags: list[str], capsys: pytest.CaptureFixture[str]):
    changes = ["--lr", "1e-3", "--seed", "7"]

    assert main([*flags, *changes, "--out", str(finished)]) == 2

    _expect_one_line(capsys, rf"{finished} holds another training run \(changed: lr: 0\.002 -> 0\.001, seed: 0 -> 7\)")


@pytest.mark.usefixtures("_no_ray")
def test_another_manifest_of_the_same_name_is_refused(
    finished: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    description = json.loads((finished / "run.json").read_text())
    description["inputs"][flags[1]] = "0123"
    (tmp_path / "run.json").write_text(json.dumps(description))

    assert main([*flags, "--out", str(tmp_path)]) == 2

    _expect_one_line(capsys, rf"changed: content of {flags[1]}: 0123 -> \w+\)")


@pytest.mark.usefixtures("_no_ray")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--weights 1 2", r"--weights must be one number above 0 for each of the 1 manifests; got \(1\.0, 2\.0\)"),
        (
            "--start large",
            "--start must be pmnc-paper, .*, lpmflow-paper, .*, paper, nemf-small, .*, shipped or a checkpoint folder; "
            "got large",
        ),
        ("--batch-size 3 --workers 2", "--batch-size 3 must be divisible by --workers 2"),
        ("--photographs absent.parquet --warp-share 0.5", "no manifest at .*absent.parquet"),
        ("--field-weight 0 --flow-weight 0", r"must be at least 0 and not all 0; got 0\.0, 0\.0, 0\.0"),
        ("--warp-share 1.5", r"--warp-share is a share, 0\.\.1; got 1\.5"),
        ("--steps 0", "--steps must be at least 1; got 0"),
        ("--warmup-steps 60", "there must be more steps than warm-up steps; got 60 steps, 60 to warm up"),
        ("--protocol mine", "there is no protocol 'mine'; there are: spair"),
        ("--validation absent.parquet", "no manifest at .*absent.parquet"),
        ("--image-size 20", "image_size must be 32 to 4096; got 20"),
        ("--start nemf-small --image-size 1024 --descriptor-weight 1", "image_size 1024 ask for volumes of up to"),
        ("--backbone timm/resnet10t", "tiny holds its backbone: leave out --backbone, or --start from one of"),
        (
            "--start nemf-mobilenet --descriptor-weight 1 --backbone torchvision/vit_b_16",
            "there is no backbone torchvision/vit_b_16; timm has vision transformers of any size",
        ),
        ("--backbone-weights w.safetensors", "tiny holds its backbone's weights: leave out --backbone-weights"),
    ],
)
def test_settings_that_cannot_be_are_one_line_and_exit_code_2(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
):
    out = tmp_path / "run"

    assert main([*flags, "--out", str(out), *change.split()]) == 2

    _expect_one_line(capsys, message)
    assert not out.exists()


def _expect_one_line(capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(pattern, error), error
