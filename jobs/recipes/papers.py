"""The published trainings of NeMF."""

from jobs import prepare, train
from jobs.recipes.stages import RecipeOptions, Stage
from nemf.training.config import LossConfig, TrainerConfig


def paper_spair(options: RecipeOptions) -> list[Stage]:
    """The published training for SPair-71k: ResNet-101, frozen, both losses, AdamW at 3e-5, negatives all random.

    Needs: data/SPair-71k and weights of torchvision's resnet101. Not run here: the paper reports PCK@.1 53.6 (protocol
    nemf); on the CPU of docs/measured.md a step of 8 pairs takes minutes, so it needs GPUs (--workers).
    The paper does not give steps and batch size; these are ours: about 15 epochs.
    """
    return _paper(options, dataset="spair", root="SPair-71k", training="trn", protocol="nemf", steps=100_000)


def paper_pf_pascal(options: RecipeOptions) -> list[Stage]:
    """The published training for PF-PASCAL; the paper measures its network on PF-WILLOW too.

    Needs: data/PF-PASCAL and weights of torchvision's resnet101. Not run here: the paper reports PCK@.1 93.6 (protocol
    pf-pascal), on PF-WILLOW 75.0 (pf-willow-bbox-kp). Steps and batch size are ours: about 50 epochs.
    """
    return _paper(options, dataset="pf-pascal", root="PF-PASCAL", training="train", protocol="pf-pascal", steps=18_000)


def _paper(options: RecipeOptions, *, dataset: str, root: str, training: str, protocol: str, steps: int) -> list[Stage]:
    manifests = {split: str(options.out / f"{dataset}-{split}.parquet") for split in (training, "val")}
    folder = str(options.data / root)
    prepared = [
        prepare.make_config(dataset, root=folder, split=split, out=manifest) for split, manifest in manifests.items()
    ]
    published = train.Config(
        pairs=(manifests[training],),
        validation=manifests["val"],
        validation_pairs=500,
        protocol=protocol,
        out=str(options.out / "field"),
        start="paper",
        backbone_weights=options.weights,
        trainer=TrainerConfig(steps=steps, lr=3e-5, ema_decay=0.0, loss=LossConfig(hard=0.0, negatives=99)),
        validate_every=2000,
        threads=options.threads,
        workers=options.workers,
    )
    return [*prepared, published]
