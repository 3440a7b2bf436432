"""jobs.distil: a tiny student learns from a tiny teacher, is interrupted and resumes; bad input is refused."""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from make import encoded, noise_rgb, write_pairs
from tiny import TINY

from jobs.command import as_json, parse
from jobs.distil import Config, main
from nemf import checkpoints
from nemf.model.build import build
from nemf.model.presets import PRESETS
from nemf.training.distil import Distiller
from pipeline.training.folder import read_history

STEPS = 6
SIDES = ("source", "target")
TEACHER = replace(TINY, backbone_config=replace(TINY.backbone_config, create_kwargs={"replace_stem_pool": True}))
"""A teacher with another backbone than the student's, and maps of the same shapes."""


SETTINGS = {
    "photographs": ("a", "b"),
    "out": "run",
    "teacher": "large",
    "image_root": None,
    "student": "nemf-small",
    "steps": 6000,
    "batch_size": 16,
    "lr": 2e-3,
    "warmup_steps": 200,
    "bfloat16": False,
    "seed": 0,
    "log_every": 10,
    "checkpoint_every": 200,
    "device": "auto",
    "threads": 1,
    "loaders": 1,
}
"""The settings in run.json for the default flags, as the first runs recorded them; with other names old runs could not
resume."""


def test_each_flag_is_a_setting_of_the_same_name(capsys: pytest.CaptureFixture[str]):
    required = ["--photographs", "a,b", "--out", "run", "--teacher", "large"]
    assert as_json(parse(Config, required, "distil")[0]) == SETTINGS
    changed = {"steps": 7, "lr": 0.5, "seed": 3}
    other = ["--steps", "7", "--lr", "0.5", "--seed", "3"]
    assert as_json(parse(Config, [*required, *other], "distil")[0]) == SETTINGS | changed

    with pytest.raises(SystemExit):
        main(["--help"])
    flags = set(re.findall(r"^. --(?!no-)([a-z][a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE))
    assert flags == {name.replace("_", "-") for name in SETTINGS} | {"storage-options"}


@pytest.fixture(autouse=True, scope="module")
def _tiny_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", lambda: TINY)
        yield


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags without --out: four photographs without keypoints, one of them missing a file, and a teacher."""
    folder = tmp_path_factory.mktemp("inputs")
    rows: list[dict[str, Any]] = [
        {
            "pair_id": str(number),
            **{f"{side}_image": encoded(noise_rgb(2 * number + k)) for k, side in enumerate(SIDES)},
        }
        for number in range(2)
    ]
    rows.append({"pair_id": "lost", "source_uri": "lost.png", "target_uri": "lost.png"})
    torch.manual_seed(0)
    checkpoints.save(folder / "teacher", build(TEACHER), TEACHER, search={"refine_steps": 3})
    files = ["--photographs", write_pairs(folder / "photographs.parquet", rows), "--image-root", str(folder)]
    teacher = ["--teacher", str(folder / "teacher")]
    size = f"--student tiny --steps {STEPS} --batch-size 4 --warmup-steps 2 --log-every 1 --checkpoint-every 2"
    return [*files, *teacher, *size.split()]


@pytest.fixture(scope="module")
def straight(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run; must not be changed."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert main([*flags, "--out", str(out)]) == 0
    return out


def test_what_was_learnt_is_the_teacher_with_another_backbone(
    straight: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
):
    training = read_history(str(straight))["training"]
    assert [row["step"] for row in training] == list(range(1, STEPS + 1))
    assert all(set(row) == {"step", "distance", "lr"} for row in training)
    assert training[-1]["distance"] < 0.95 * training[0]["distance"]
    (unusable,) = read_history(str(straight))["unusable"]
    assert unusable["pair_id"] == "lost"

    checkpoint = straight / "checkpoint"
    assert checkpoints.read_config(checkpoint) == TINY
    assert checkpoints.read_search(checkpoint) == {"refine_steps": 3}
    distilled, teacher = checkpoints.load(checkpoint), checkpoints.load(Path(_value(flags, "--teacher")))
    for part in ("neck", "cost_encoder", "field"):
        tensors = getattr(teacher, part).state_dict()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in getattr(distilled, part).state_dict().items())

    before = {file: file.read_bytes() for file in straight.rglob("*") if file.is_file()}
    assert main([*flags, "--out", str(straight)]) == 0
    assert f"{checkpoint}: after {STEPS} steps, mean squared" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in straight.rglob("*") if file.is_file()} == before


def test_a_student_can_go_on_from_where_another_run_left_it(flags: list[str], straight: Path, tmp_path: Path):
    out, student = tmp_path / "again", straight / "checkpoint"
    assert main([*_without(flags, "--student"), "--student", str(student), "--out", str(out)]) == 0

    first, again = (read_history(str(folder))["training"][0] for folder in (straight, out))
    assert again["distance"] < 0.95 * first["distance"]
    assert checkpoints.read_config(out / "checkpoint") == TINY
    assert str(student / "model.safetensors") in json.loads((out / "run.json").read_text())["inputs"]


@pytest.mark.parametrize(("sent", "saved"), [(signal.SIGTERM, 4), (None, 2)])
def test_stopped_or_killed_and_run_again_it_ends_as_if_nothing_had_been(
    flags: list[str],
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sent: signal.Signals | None,
    saved: int,
):
    """Interrupted in the fourth step: after a signal that step is saved too, otherwise the last state is of the
    second."""
    out = tmp_path / "interrupted"
    step = Distiller.step

    def interrupted(distiller: Distiller, rgb: torch.Tensor) -> dict[str, float]:
        if distiller.step_number == 3:
            if sent is None:
                raise KeyboardInterrupt
            os.kill(os.getpid(), sent)
        return step(distiller, rgb)

    with monkeypatch.context() as patch:
        patch.setattr(Distiller, "step", interrupted)
        assert main([*flags, "--out", str(out)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (out / "checkpoint").exists()
    assert torch.load(out / "state.pt", weights_only=True)["trainer"]["step_number"] == saved

    assert main([*flags, "--out", str(out)]) == 0

    assert read_history(str(out)) == read_history(str(straight))
    for file in ("model.safetensors", "config.json"):
        assert (out / "checkpoint" / file).read_bytes() == (straight / "checkpoint" / file).read_bytes()


def test_a_run_that_diverges_says_what_to_do(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def diverge(_distiller: Distiller, _rgb: torch.Tensor) -> dict[str, float]:
        raise FloatingPointError("step 0: the gradient is not finite; loss nan")

    monkeypatch.setattr(Distiller, "step", diverge)
    assert main([*flags, "--out", str(tmp_path / "out")]) == 2
    _expect_error(capsys, "step 0: the gradient is not finite; loss nan; lessen --lr, in a new --out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--photographs", "--photographs must name at least one manifest"),
        ("--photographs absent.parquet", r"no manifest at .*absent\.parquet"),
        (
            "--student large",
            "--student must be paper, nemf-small, .*, tiny or a checkpoint folder; got large",
        ),
        ("--steps 0", "--steps must be at least 1; got 0"),
        ("--loaders 0", "--loaders must be at least 1; got 0"),
        (f"--warmup-steps {STEPS}", "there must be more steps than warm-up steps; got 6 steps, 6 to warm up"),
        ("--teacher absent", "checkpoint folder .*absent: there is no such folder"),
        ("--student paper", r"like its teacher's, \[\(128, 8, 8\), \(256, 4, 4\)\] .* it gives \[\(256, 16, 16\)"),
        ("--device gpu", "device must be auto, cpu, cuda or cuda:N; got 'gpu'"),
    ],
)
def test_settings_that_cannot_be_leave_no_folder_behind(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
):
    out = tmp_path / "out"
    assert main([*_without(flags, change.split()[0]), *change.split(), "--out", str(out)]) == 2
    _expect_error(capsys, message)
    assert not out.exists()


def test_another_run_in_the_folder_is_refused(
    flags: list[str], straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = shutil.copytree(straight, tmp_path / "run")
    assert main([*_without(flags, "--batch-size"), "--batch-size", "8", "--out", str(out)]) == 2
    _expect_error(capsys, r"another training run \(changed: batch_size: 4 -> 8\)")

    description = json.loads((out / "run.json").read_text())
    teacher = str(Path(_value(flags, "--teacher")) / "model.safetensors")
    description["inputs"][teacher] = "0123"
    (out / "run.json").write_text(json.dumps(description))
    assert main([*flags, "--out", str(out)]) == 2
    _expect_error(capsys, rf"changed: content of {teacher}: 0123 -> \w+\)")


def _value(flags: list[str], name: str) -> str:
    return flags[flags.index(name) + 1]


def _without(flags: list[str], name: str) -> list[str]:
    """The flags without one of them and its value."""
    if name not in flags:
        return flags
    index = flags.index(name)
    return flags[:index] + flags[index + 2 :]


def _expect_error(capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert re.search(pattern, line), line
