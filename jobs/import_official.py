"""Turn a checkpoint of the NeMF authors into one of this project.

    nemf import-official CHECKPOINT_DIR --out FOLDER

CHECKPOINT_DIR holds model_best.pth and args.pkl, as the authors publish them. Nothing in them is run: a file that
tries is refused. FOLDER gets model.safetensors and config.json, and is then the name of a matcher:
`nemf pair a.jpg b.jpg --matcher FOLDER`. Cost: seconds, and 0.5 GB of memory.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs.command import run_command
from nemf import checkpoints


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which checkpoint, and where to."""

    checkpoint_dir: tyro.conf.Positional[Path]
    """Folder with model_best.pth and args.pkl."""
    out: Path
    """Folder to write; must not hold a checkpoint yet."""


def run(config: Config) -> Path:
    """Import, write, and return the folder."""
    if (config.out / "config.json").exists() or (config.out / "model.safetensors").exists():
        raise FileExistsError(f"--out {config.out} holds a checkpoint already; name another folder")
    model, sizes = checkpoints.import_official(config.checkpoint_dir)
    checkpoints.save(config.out, model, sizes)
    n_parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    print(f"{config.out}: {sizes.backbone}, {n_parameters / 1e6:.1f} M values")
    return config.out


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
