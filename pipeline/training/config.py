"""Settings of a training run and of a distillation, which the run folder records and the processes use."""

from dataclasses import dataclass, field
from typing import Annotated

from nemf.model import presets as nemf_presets
from nemf.model.presets import CostFeatureKind
from nemf.presets import PRESETS
from nemf.training.config import DistillerConfig, TrainerConfig
from pipeline.io.uri_field import LocalPath, Uri, UriField

SHIPPED = "shipped"
SELECTION_METRIC = "pck@0.1"
"""The metric by which the checkpoint to keep is chosen."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The network to train, its data, and the settings of the training."""

    pairs: tuple[Uri, ...]
    """PAIRS manifests of training pairs, paths or URIs."""
    out: Uri
    """Folder of the run, path or URI; created, or continued if it holds the same run."""
    weights: tuple[float, ...] = ()
    """Relative frequency of each manifest; default: all equal."""
    photographs: tuple[Uri, ...] = ()
    """PAIRS manifests whose images are warped, keypoints or not; default: the manifests of --pairs."""
    image_root: Uri | None = None
    """Folder, path or URI, of the manifests' relative image URIs."""
    names_across_categories: bool = False
    """Keypoints of one name match across categories too (a cat's left eye and a dog's)."""
    start: Annotated[str, UriField(names=(*PRESETS, SHIPPED))] = "nemf-small"
    """Network to train, with random weights behind a pretrained backbone: paper, nemf-small or nemf-mobilenet (NeMF),
    lpmflow-paper or lpmflow-small (LPMFlow), pmnc-paper or pmnc-small (PMNC); a checkpoint folder; or shipped, the
    network of the matcher nemf-small."""
    backbone: str | None = None
    """Backbone to take the place of that of a start with random weights: timm/MODEL or torchvision/MODEL, with layers
    and norm after a '?'. Sizes become those that it needs."""
    cost_features: CostFeatureKind | None = None
    """Modules between correlation and field (Table 3 of the paper); default: those of the start."""
    image_size: int | None = None
    """Side of the network's square images, in pixels, rounded to what its backbone takes; default: that of the start.
    From a checkpoint of another size, backbone and neck are taken, and the rest is initialised anew."""
    backbone_weights: LocalPath | None = None
    """Local safetensors file of weights, as timm or torchvision publish them; default: the library's own."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Steps, learning rates and averaging."""
    batch_size: int = 8
    """Pairs in a step, of all workers together."""
    augment: bool = True
    """Transform, crop, mirror and recolour the images at random."""
    warp_share: float = 0.0
    """Share of the examples that are a photograph and a warped copy of it, 0..1."""
    search: tuple[str, ...] = ()
    """Settings of the search for validation and for the checkpoint, name=value, see nemf.search.config.SearchConfig;
    default: those of the start, else the published ones."""
    validation: Uri | None = None
    """PAIRS manifest to choose the checkpoint by; default: the last checkpoint is kept."""
    validation_pairs: int = 100
    """Number of validation pairs to match, chosen at random once."""
    protocol: str = "spair"
    """Protocol of the PCK on the validation pairs."""
    log_every: int = 10
    """Steps from one row of the history to the next."""
    checkpoint_every: int = 200
    """Steps from one saved state to the next: what a crash can cost."""
    validate_every: int = 1000
    """Steps from one validation to the next."""
    threads: int = 1
    """Computing threads of each worker; losses change with it in their last digits."""
    loaders: int = 1
    """Threads of each worker that prepare batches."""

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""
        return self.trainer.seed


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Teacher and student of a distillation, its photographs, and how it is trained."""

    photographs: tuple[Uri, ...]
    """PAIRS manifests whose images are used, twice as often where one is named twice; keypoints are not needed."""
    out: Uri
    """Folder of the run, path or URI; created, or continued if it holds the same run."""
    teacher: Uri
    """Checkpoint folder, path or URI, of the network whose backbone is to be replaced."""
    image_root: Uri | None = None
    """Folder, path or URI, of the manifests' relative image URIs."""
    student: Annotated[str, UriField(names=tuple(nemf_presets.PRESETS))] = "nemf-small"
    """Network whose backbone learns: a name of nemf.model.presets, with random weights, or a checkpoint folder, path or
    URI."""
    distiller: DistillerConfig = field(default_factory=DistillerConfig)
    """Steps and learning rate."""
    batch_size: int = 16
    """Images in a step."""
    log_every: int = 10
    """Steps from one row of the history to the next."""
    checkpoint_every: int = 200
    """Steps from one saved state to the next: what a crash can cost."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    threads: int = 1
    """Computing threads; losses change with it in their last digits."""
    loaders: int = 1
    """Threads that prepare batches."""
