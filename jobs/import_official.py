"""Convert a checkpoint of the authors of NeMF or LPMFlow into a checkpoint folder of ours.

    nemf import-official CHECKPOINT_DIR --out FOLDER

CHECKPOINT_DIR holds model_best.pth and args.pkl, as the authors publish them; the names of the tensors tell which
system they are of. No code in them is executed: a file that holds any is refused. FOLDER gets model.safetensors and
config.json, and is then the name of a matcher: `nemf pair a.jpg b.jpg --matcher FOLDER`. Cost: seconds, and 1.6 GB of
memory.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs.command import run_command
from pipeline.io import storage
from pipeline.io.uri_field import LocalPath, Uri


@dataclass(frozen=True, kw_only=True)
class Config:
    """The checkpoint to convert, and the folder to write."""

    checkpoint_dir: tyro.conf.Positional[Uri]
    """Folder with model_best.pth and args.pkl, path or URI."""
    out: LocalPath
    """Local folder to write; must not hold a checkpoint yet."""
    as_test_script: bool = False
    """LPMFlow only: give both images the tables of positions that the authors' test script does, which writes one
    image's over the other's as it loads a checkpoint. By default they are those that were trained."""


def run(config: Config) -> Path:
    """Import, write, and return the folder."""
    # these import torch, which takes more than a second
    from nemf import checkpoints
    from nemf.lpmflow.network import LPMFlow
    from nemf.official.lpmflow_names import share_tables
    from nemf.official.pickles import import_official

    if "://" in config.out:
        raise ValueError(f"--out must be a local folder, which can be copied anywhere afterwards; got {config.out}")
    out = Path(storage.absolute(config.out))
    if (out / "config.json").exists() or (out / "model.safetensors").exists():
        raise FileExistsError(f"--out {out} holds a checkpoint already; name another folder")
    model, sizes = import_official(config.checkpoint_dir)
    if config.as_test_script:
        if not isinstance(model, LPMFlow):
            raise ValueError(f"--as-test-script is for checkpoints of LPMFlow; {config.checkpoint_dir} is one of NeMF")
        share_tables(model)
    checkpoints.save(out, model, sizes)
    n_parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    print(f"{out}: {sizes.backbone}, {n_parameters / 1e6:.1f} M values")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
