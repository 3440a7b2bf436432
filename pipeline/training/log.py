"""The log of a training run for people: event files for TensorBoard, and the training curves as an image.

    <out>/tensorboard/   `tensorboard --logdir <out>`; one event file for each attempt
    <out>/curves.png     losses and PCK up to the last saved state

The run reads neither; history.json is the record.
"""

import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.utils.tensorboard import SummaryWriter

from pipeline.io import storage
from pipeline.training.config import SELECTION_METRIC

Row = Mapping[str, Any]
History = Mapping[str, Sequence[Row]]
"""Rows of `training` and `validation`, as in history.json; either may be absent."""

NOT_LOSSES = frozenset({"step", "total", "gradient_norm", "lr", "seconds_per_step"})
"""Columns of a training row that get no panel in the curves; `total` is a weighted sum of the losses."""

_SMOOTHING = 15  # a smoothed value is a mean over one 15th of the rows
_SHOWN_PERCENTILES = (0.5, 99)  # of the rows: the first of a run are often so high that the others would look alike
_LOSS_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:pink")
_PCK_COLOURS = ("tab:red", "tab:cyan", "tab:olive", "tab:gray")


class TrainingLog:
    """Writes event files and curves while a run trains; used by one process.

    out: folder of the run, path or URI.
    first_step: number of steps of the state from which the run resumes, 0 without one. TensorBoard discards what an
    interrupted attempt has logged beyond it, since these steps are trained again.
    Raises OSError, here and in every method, where `out` cannot be written to.
    """

    def __init__(self, out: str, first_step: int) -> None:
        self._out = out
        fs, path = storage.open_uri(storage.join(out, "tensorboard"))
        # TensorBoard follows a local file as it grows, and would miss one that is replaced; elsewhere nothing can grow.
        self._temporary = None if isinstance(fs, LocalFileSystem) else tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name if self._temporary else path)
        # Events from purge_step on are discarded: the state's own step is kept; without a state nothing is.
        self._writer = SummaryWriter(str(self._folder), purge_step=first_step + 1 if first_step else 0)

    def add(self, kind: Literal["training", "validation"], row: Row) -> None:
        """Log the numbers of one row of the history, at its `step`, as `<kind>/<name>`."""
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(f"{kind}/{name}", value, row["step"])

    def save(self, history: History) -> None:
        """Write the events so far and the curves below `out`. Call it before the state is saved.

        An interruption between the two then leaves too many events, which are discarded, and never too few.
        """
        self._writer.flush()
        self._copy()
        storage.write_bytes(storage.join(self._out, "curves.png"), draw_curves(history))

    def close(self) -> None:
        """Write the remaining events below `out`, and close the log."""
        self._writer.close()
        with self._temporary or nullcontext():
            self._copy()

    def _copy(self) -> None:
        if self._temporary:
            for file in self._folder.iterdir():
                storage.write_bytes(storage.join(self._out, "tensorboard", file.name), file.read_bytes())


def draw_curves(history: History) -> bytes:
    """Losses and PCK (percent) over steps, as a PNG image.

    Each loss has its own panel, since their scales differ: its rows faint, their running mean strong. PCK is in the
    last panel, with the best validation marked. Panels without data are left out.
    """
    training, validation = history.get("training", ()), history.get("validation", ())
    losses = [name for name in _names(training) if name not in NOT_LOSSES]
    n_panels = max(1, len(losses) + bool(validation))
    figure = Figure(figsize=(9, 1 + 2.2 * n_panels), layout="constrained")
    panels = figure.subplots(n_panels, sharex=True, squeeze=False)[:, 0]
    for number, (axes, name) in enumerate(zip(panels, losses, strict=False)):
        _draw_loss(axes, training, name, _LOSS_COLOURS[number % len(_LOSS_COLOURS)])
    if validation:
        _draw_pck(panels[-1], validation)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if not (losses or validation):
        panels[0].text(0.5, 0.5, "no step has been logged yet", ha="center", transform=panels[0].transAxes)
        panels[0].set_axis_off()
    panels[-1].set_xlim(left=0)
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _draw_loss(axes: Axes, rows: Sequence[Row], name: str, colour: str) -> None:
    steps, values = _series(rows, name)
    axes.set_ylabel(f"{name} loss")
    if not len(values):
        return
    smooth = _running_mean(values, 1 + len(values) // _SMOOTHING)
    axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
    axes.plot(steps, smooth, color=colour, linewidth=2, marker="o" if len(values) == 1 else "")
    low, high = np.percentile(values, _SHOWN_PERCENTILES)
    low, high = min(low, smooth.min()), max(high, smooth.max())
    margin = 0.1 * (high - low) or 0.1 * abs(high) or 1
    axes.set_ylim(low - margin, high + margin)
    axes.annotate(f"{smooth[-1]:.3g}", (steps[-1], smooth[-1]), (6, 0), textcoords="offset points", va="center")


def _draw_pck(axes: Axes, rows: Sequence[Row]) -> None:
    names = [name for name in _names(rows) if name.startswith("pck@")]
    for number, name in enumerate(names):
        steps, values = _series(rows, name)
        axes.plot(steps, values, color=_PCK_COLOURS[number % len(_PCK_COLOURS)], marker="o", markersize=4, label=name)
    axes.set_ylabel("validation PCK, %")
    axes.set_ylim(bottom=0)
    steps, values = _series(rows, SELECTION_METRIC)
    if len(values):
        best = values.argmax()
        label = f"best {SELECTION_METRIC}: {values[best]:.1f} after {steps[best]:,.0f} steps"
        axes.plot(steps[best], values[best], "*", color="black", markersize=14, label=label, zorder=3)
    axes.legend(loc="best")


def _names(rows: Sequence[Row]) -> list[str]:
    """Column names of the rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _series(rows: Sequence[Row], name: str) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Steps and values of the n rows where the column is present and finite."""
    points = [(row["step"], row[name]) for row in rows if name in row and np.isfinite(row[name])]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def _running_mean(values: Float64[np.ndarray, " n"], width: int) -> Float64[np.ndarray, " n"]:
    """Mean over a Hann window of `width` values around each value, shorter at the ends."""
    window = np.hanning(width + 2)[1:-1]
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
