"""Make a checkpoint ready for release: size, search settings and model card.

    nemf pack --checkpoint runs/small/checkpoint --out packed/mine --half --search grid_strides=8 \\
        --metrics spair.parquet willow.parquet --training-data "Animal-Pose (research use)"

OUT is a checkpoint folder again (model.safetensors, config.json, README.md), which every job takes as a matcher.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jobs.command import Uris, run_command
from pipeline.io import storage
from pipeline.io.uri_field import Uri


@dataclass(frozen=True, kw_only=True)
class Config:
    """The checkpoint to pack, and the content of its model card."""

    checkpoint: Uri
    """Checkpoint folder, path or URI."""
    out: Uri
    """Folder to write, path or URI; checkpoint files in it are replaced."""
    name: str | None = None
    """Name in the model card; default: the name of the folder."""
    search: tuple[str, ...] = ()
    """Settings of the search to save, name=value, see nemf.search.config.SearchConfig; default: the settings it has."""
    half: bool = False
    """Write weights as float16."""
    metrics: Uris = ()
    """METRICS tables of the network's measured PCK, paths or URIs."""
    training_data: str | None = None
    """Name and terms of use of the network's training data."""
    commands: tuple[str, ...] = ()
    """The command lines that made the checkpoint."""


def run(config: Config) -> str:
    """Write the folder, and return its name. Raises ValueError and OSError as reading and writing do."""
    # these import torch and pandas, which take more than a second
    import torch

    from nemf import checkpoints
    from nemf.search.config import search_options
    from pipeline.evaluation.metrics import read_metrics
    from pipeline.training.model_card import CARD, model_card, pck_results

    model, network = checkpoints.load(config.checkpoint), checkpoints.read_config(config.checkpoint)
    search, calibration = checkpoints.read_search(config.checkpoint), checkpoints.read_calibration(config.checkpoint)
    if config.search:
        search = search_options("--search", "&".join(config.search))
    results = [result for uri in config.metrics for result in pck_results(read_metrics(uri))]
    name = config.name or PurePosixPath(storage.absolute(config.out)).name
    card = model_card(
        name, model, network, results=results, training_data=config.training_data, commands=config.commands
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dtype = torch.float16 if config.half else torch.float32
        checkpoints.save(folder, model, network, search=search, calibration=calibration, dtype=dtype)
        (folder / CARD).write_text(card, encoding="utf-8")
        for file in sorted(folder.iterdir()):
            storage.write_bytes(storage.join(config.out, file.name), file.read_bytes())
        size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{config.out}: {size / 2**20:.2f} MiB")
    return config.out


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
