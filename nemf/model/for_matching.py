"""Networks as matching runs them: in the precision asked for, and on a CPU in nearly half the time.

There the batch normalisations of a backbone are folded into the convolutions before them, and channels lie next to each
other in memory; its maps are the same but for rounding.
"""

import copy
import logging
from collections import Counter
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nemf.model.backbone import Backbone
from nemf.model.bfloat16_check import as_type, trial_image, wrong_convolutions

_TOLERANCE = 1e-3
"""Of a map's values, as a share of its greatest one: rounding is a thousand times less."""

Model = TypeVar("Model", bound=nn.Module)


def for_matching(model: Model, device: torch.device, side_px: int, *, bfloat16: bool = False) -> Model:
    """The model in eval mode on the device. On a CPU, and in bfloat16, it is a copy whose backbone, `model.backbone` or
    the model itself, is faster; what it does not change it shares with the model, which is as before.

    side_px: side of square images that it takes.
    bfloat16: backbone and neck compute in bfloat16, from float32 images to float32 maps. Processors with AMX take less
        time, for large networks a half to a quarter; others take more, which a warning says. Raises ValueError where
        the backbone has an operation that PyTorch does not have in bfloat16.
    """
    model = model.eval().requires_grad_(False).to(device)
    if isinstance(model, Backbone):
        faster = _with_part(model, "network", _faster(model, side_px)) if device.type == "cpu" else model
        return _backbone_in_bfloat16(faster, side_px) if bfloat16 else faster
    backbone, neck = model.backbone, getattr(model, "neck", None)
    assert isinstance(backbone, Backbone)
    if neck is not None and device.type == "cpu":
        _channels_last(neck)
    if neck is not None and bfloat16:
        model = _with_part(model, "neck", _in_bfloat16(neck))
    return _with_part(model, "backbone", for_matching(backbone, device, side_px, bfloat16=bfloat16))


def _with_part(model: Model, name: str, part: nn.Module) -> Model:
    """A copy of the model in which the part of that name is another."""
    copied = copy.copy(model)
    copied._modules = {**model._modules, name: part}
    return copied


@torch.no_grad()
def _backbone_in_bfloat16(backbone: Model, side_px: int) -> Model:
    """The backbone in bfloat16, but for convolutions that the processor computes wrongly; ValueError where it cannot
    be."""
    assert isinstance(backbone, Backbone)
    network = _in_bfloat16(backbone.network)
    converted = _with_part(backbone, "network", network)
    if backbone.mean.device.type == "cpu" and not _has_amx():
        logging.getLogger("nemf").warning(
            "precision=bfloat16: this processor does not multiply it (AMX), and takes longer by it than in float32"
        )
    try:
        with wrong_convolutions(network, dict(backbone.network.named_modules())) as wrong:
            converted(trial_image(side_px).to(backbone.mean.device))
    except (RuntimeError, TypeError) as error:  # of an operation without bfloat16, or of a tensor made in float32
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{backbone.name} cannot compute in bfloat16 ({reason}): leave precision=bfloat16 out"
        ) from error
    exact = {network.get_submodule(name): _in_float32(backbone.network.get_submodule(name)) for name in wrong}
    for module in list(network.modules()):
        for name, child in module._modules.items():  # also those that are there under a second name
            if child in exact:
                setattr(module, name, exact[child])
    return converted


def _has_amx() -> bool:
    """Whether the processor multiplies bfloat16; true where PyTorch does not say."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", True))


def _in_bfloat16(module: nn.Module) -> nn.Module:
    """A copy that computes in bfloat16, from float32 tensors to float32 tensors."""
    module = copy.deepcopy(module).eval().bfloat16()  # a copy made of a graph comes back in training mode
    return _between(module, torch.bfloat16, torch.float32)


def _in_float32(module: nn.Module) -> nn.Module:
    """A copy that computes in float32, from bfloat16 tensors to bfloat16 tensors."""
    return _between(copy.deepcopy(module).eval(), torch.float32, torch.bfloat16)


def _between(module: nn.Module, inside: torch.dtype, outside: torch.dtype) -> nn.Module:
    """The module, which is given tensors of one type and returns tensors of another."""
    module.register_forward_pre_hook(
        lambda _module, inputs, options: (as_type(inputs, inside), as_type(options, inside)), with_kwargs=True
    )
    module.register_forward_hook(lambda _module, _inputs, outputs: as_type(outputs, outside))
    return module


@torch.no_grad()
def _faster(backbone: Backbone, side_px: int) -> nn.Module:
    """The backbone's network, folded where that gives the same maps."""
    network = backbone.network
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        image = trial_image(side_px)
        folded = _with_part(backbone, "network", copy.deepcopy(network).eval())
        before = _fold(folded, image)
        maps = zip(folded(image), before, strict=True)
        if all((ours - theirs).abs().max() <= _TOLERANCE * theirs.abs().max() for ours, theirs in maps):
            network = folded.network
    return _channels_last(network)


def _channels_last(module: nn.Module) -> nn.Module:
    """The module, whose weights of two-dimensional convolutions now have their channels next to each other; those of
    three-dimensional ones, which Module.to refuses, stay as they are."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def _fold(backbone: Backbone, image: Float[Tensor, "1 3 s s"]) -> list[Tensor]:
    """Fold each normalisation into the convolution whose output it takes, where that is no map itself; what it holds,
    as timm's hold their rectifiers, takes its place. Returns the image's maps before that."""
    calls = Counter[nn.Module]()
    norm_after: dict[nn.Module, nn.BatchNorm2d] = {}

    def after_convolution(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        calls[module] += 1
        output.made_by = module, output._version  # type: ignore[attr-defined]

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        convolution, version = _made_by(inputs[0])
        if convolution is not None and version == inputs[0]._version:
            assert isinstance(module, nn.BatchNorm2d)
            norm_after[convolution] = module

    hooks = []
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(before_norm))
    maps = backbone(image)
    for features in maps:
        norm_after.pop(_made_by(features)[0], None)
    for hook in hooks:
        hook.remove()
    places = {child: (module, name) for module in backbone.modules() for name, child in module.named_children()}
    for convolution, norm in norm_after.items():
        if calls[convolution] == calls[norm] == 1:
            assert isinstance(convolution, nn.Conv2d)
            setattr(*places[convolution], fuse_conv_bn_eval(convolution, norm))
            setattr(*places[norm], nn.Sequential(*norm.children()))
    return maps


def _made_by(tensor: Tensor) -> tuple[Any, int]:
    """The convolution that this tensor is the output of, and the tensor's version then; None and 0 for others."""
    made_by: tuple[Any, int] = getattr(tensor, "made_by", (None, 0))
    return made_by
