"""The options of pairing images by what they look like."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PairingOptions:
    """Which pairs are proposed, and how images are compared."""

    neighbours: int = 8
    """The most similar images of its own category that each image is paired with."""
    neighbours_across: int = 0
    """The most similar images of other categories that each image is paired with."""
    pairs_per_image: int | None = None
    """Maximum number of pairs with one image in them; None for twice the neighbours of either kind."""
    pairs_per_category: int | None = None
    """Maximum number of pairs within each category, and between each two; None for no maximum."""
    seed: int = 0
    """Seed of the choice among pairs where there are too many, and of which image is the source."""
    matcher: str = "nemf-small"
    """Name of the matcher whose features tell which images look alike, as nemf.load_matcher takes it."""
    backbone_weights: str | None = None
    """Local safetensors file of backbone weights; None for the library's own."""
    device: str = "auto"
    """Device that computes features: cpu, cuda, or auto for GPUs if the cluster has any."""
    workers: tuple[int, int] | None = None
    """Processes that compute features, at least and at most; None for one per core, or per GPU."""
    address: str | None = None
    """Ray cluster; None for RAY_ADDRESS, else an embedded one."""

    def check(self) -> None:
        """Raises ValueError for options out of range."""
        for name in ("neighbours", "neighbours_across"):
            if getattr(self, name) < 0:
                raise ValueError(f"{_flag(name)} must be at least 0; got {getattr(self, name)}")
        if self.neighbours + self.neighbours_across == 0:
            raise ValueError("--neighbours and --neighbours-across are both 0: no pair could be proposed")
        for name in ("pairs_per_image", "pairs_per_category"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{_flag(name)} must be at least 1; got {value}")
        if self.workers and not 1 <= self.workers[0] <= self.workers[1]:
            raise ValueError(f"--workers is N or MIN,MAX, from 1 up; got {self.workers[0]},{self.workers[1]}")

    @property
    def most_per_image(self) -> int:
        """Maximum number of pairs with one image in them."""
        return self.pairs_per_image or 2 * (self.neighbours + self.neighbours_across)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
