"""A matcher that compares colours around a point: `--matcher nemf_patch:build`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from nemf import ImagePair, Match, Matcher


@dataclass(frozen=True)
class Settings:
    """What may change an answer: all of it is in the fingerprint."""

    reach_px: int = 40
    """Longest shift in x and in y."""
    step_px: int = 2
    """Distance of the shifts that are tried."""
    radius_px: int = 6
    """The patch has 2 * radius_px + 1 rows and columns."""


_CODE_VERSION = 1  # raised whenever the code may answer differently


class PatchMatcher(Matcher):
    """Every point moves to the place within reach whose surroundings have the most similar colours."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.fingerprint = f"nemf_patch {_CODE_VERSION} {asdict(settings)}"
        self._settings = settings
        shifts = np.arange(-settings.reach_px, settings.reach_px + 1, settings.step_px)
        self._shifts_px = np.stack(np.meshgrid(shifts, shifts), axis=-1).reshape(-1, 2)

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterable[Match]:
        """One Match per pair, in order, each of its pair alone."""
        for pair in pairs:
            points = np.zeros((0, 2), np.float32) if pair.query_xy_px is None else pair.query_xy_px
            errors = np.array([self._errors(pair, point) for point in points]).reshape(
                len(points), len(self._shifts_px)
            )
            best = errors.argmin(axis=1)
            yield Match(
                reference_xy_px=(points + self._shifts_px[best]).astype(np.float32),
                point_confidence=(1 - errors.min(axis=1, initial=255) / 255).astype(np.float32),
            )

    def _errors(self, pair: ImagePair, point: np.ndarray) -> np.ndarray:
        """The mean difference of colours for each shift, 0..255."""
        around = self._patch(pair.query_rgb, point)
        return np.array([np.abs(self._patch(pair.reference_rgb, point + s) - around).mean() for s in self._shifts_px])

    def _patch(self, rgb: np.ndarray, point: np.ndarray) -> np.ndarray:
        """The pixels around a point, those beyond the border as the nearest one inside."""
        window = np.arange(-self._settings.radius_px, self._settings.radius_px + 1)
        x, y = np.round(point).astype(int)
        rows, columns = (np.clip(c + window, 0, size - 1) for c, size in zip((y, x), rgb.shape[:2], strict=True))
        return rgb[np.ix_(rows, columns)].astype(np.float32)


def build(backbone_weights: str | None, device: object) -> Matcher:
    """What the matcher's name names. backbone_weights: a path or None; device: a torch.device."""
    return PatchMatcher("nemf_patch:build", Settings())
