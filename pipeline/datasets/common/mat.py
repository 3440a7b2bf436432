"""MATLAB's .mat files."""

import io
from typing import Any

import numpy as np

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import DataError
from pipeline.io import storage

NumberedPoints = dict[str, tuple[float, float]]
"""Points (x, y) in pixels by their number, counted from 1."""


def read_mat(uri: str, names: tuple[str, ...]) -> dict[str, Any]:
    """The variables of these names in a .mat file. Raises DataError."""
    import scipy.io  # only here, since the help of the command needs none of it

    try:
        file: Any = io.BytesIO(storage.read_bytes(uri))  # scipy's stubs know file names only
    except FileNotFoundError as error:
        raise DataError(uri, "missing annotation", "the file is not there") from error
    try:
        return scipy.io.loadmat(file, variable_names=names)
    except Exception as error:  # scipy raises errors of any type for malformed files
        raise DataError(uri, "malformed .mat file", repr(error)) from error


def visible_points(xy_px: Any, uri: str, name: str) -> NumberedPoints:
    """The points of a variable of shape (K, 2) that are not NaN. Raises DataError."""
    if not (isinstance(xy_px, np.ndarray) and xy_px.dtype.kind in "fiu" and xy_px.ndim == 2 and xy_px.shape[1] == 2):
        got = f"shape {xy_px.shape}, dtype {xy_px.dtype}" if isinstance(xy_px, np.ndarray) else repr(xy_px)
        raise DataError(uri, "wrong type", f"field {name}: expected numbers of shape (K, 2), got {got}")
    visible = {str(number): xy for number, xy in enumerate(xy_px.tolist(), start=1) if not np.isnan(xy).any()}
    return dict(zip(visible, Fields({name: list(visible.values())}, uri).points(name), strict=True))
