"""Make a checkpoint ready for release: size, search settings and model card.

    python -m jobs.pack --checkpoint runs/small/checkpoint --out packed/mine --half --search grid_strides=8 \
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
    """What to pack, and what to say about it."""

    checkpoint: Uri
    """Checkpoint folder, path or URI."""
    out: Uri
    """Folder to write, path or URI; files of a checkpoint that are there are replaced."""
    name: str | None = None
    """What the model card calls it; default: the name of the folder."""
    search: tuple[str, ...] = ()
    """Settings of the search to bring along, name=value, see nemf.search.config.SearchConfig; default: those it has."""
    half: bool = False
    """Write weights as float16."""
    metrics: Uris = ()
    """METRICS tables of what it was measured at, paths or URIs."""
    training_data: str | None = None
    """What it was trained on, and on what terms that data may be used."""
    commands: tuple[str, ...] = ()
    """The commands that made it."""


def run(config: Config) -> str:
    """Write the folder; its name. Raises ValueError and OSError as reading and writing do."""
    # these import torch and pandas, which take more than a second
    import torch

    from nemf import checkpoints
    from nemf.search.config import search_options
    from pipeline.evaluation.metrics import read_metrics
    from pipeline.training.model_card import CARD, model_card, pck_results

    model, network = checkpoints.load(config.checkpoint), checkpoints.read_config(config.checkpoint)
    search = checkpoints.read_search(config.checkpoint)
    if config.search:
        search = search_options("--search", "&".join(config.search))
    results = [result for uri in config.metrics for result in pck_results(read_metrics(uri))]
    name = config.name or PurePosixPath(storage.absolute(config.out)).name
    card = model_card(
        name, model, network, results=results, training_data=config.training_data, commands=config.commands
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoints.save(folder, model, network, search=search, dtype=torch.float16 if config.half else torch.float32)
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
