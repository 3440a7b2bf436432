"""The tensors of vision transformers as the library transformers publishes them, under the names of their authors.

Hugging Face's own repositories of DINOv2, DINOv3, DINO and ViT hold these. The authors' names are those that timm's
rules know (nemf.model.timm_backbones).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.(projection\.)?(weight|bias)", r"patch_embed.proj.\2"),
    (r"(layernorm|norm)\.(weight|bias)", r"norm.\2"),
    (r"{layer}(norm1|layernorm_before)\.", r"{block}norm1."),
    (r"{layer}(norm2|layernorm_after)\.", r"{block}norm2."),
    (r"{layer}attention\.(output\.dense|o_proj)\.", r"{block}attn.proj."),
    (r"{layer}attention\.(attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.", r"{block}attn.\3."),
    (r"{layer}layer_scale([12])\.lambda1", r"{block}ls\2.gamma"),
    (r"{layer}(intermediate\.dense|mlp\.fc1|mlp\.up_proj)\.", r"{block}mlp.fc1."),
    (r"{layer}(output\.dense|mlp\.fc2|mlp\.down_proj)\.", r"{block}mlp.fc2."),
    (r"{layer}mlp\.weights_in\.", r"{block}mlp.w12."),
    (r"{layer}mlp\.weights_out\.", r"{block}mlp.w3."),
)
_RULES = tuple(
    (
        re.compile(pattern.replace("{layer}", r"(?:encoder\.|model\.)?layer\.(\d+)\.")),
        name.replace("{block}", r"blocks.\1."),
    )
    for pattern, name in _NAMES
)
_REGISTERS = "embeddings.register_tokens"
_PARTS = {"query": 0, "q_proj": 0, "key": 1, "k_proj": 1, "value": 2, "v_proj": 2}
_PART = re.compile(rf"(blocks\.\d+\.attn)\.({'|'.join(_PARTS)})\.(weight|bias)")


def authors_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their authors' names, queries, keys and values as one tensor each; those of other networks as
    they are.

    A pooler and a classifier are left out, and so is what the names all begin with, as in 'vit.' of a classifier.
    Raises ValueError where there are several such networks.
    """
    marks = [name for name in tensors if name.endswith("embeddings.cls_token")]
    if len(marks) > 1:
        prefixes = sorted(mark.removesuffix("embeddings.cls_token") for mark in marks)
        raise ValueError(f"hold the network more than once, below {', '.join(prefixes)}: keep one")
    if not marks:
        return dict(tensors)
    prefix = marks[0].removesuffix("embeddings.cls_token")
    inner = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    is_dinov3 = "embeddings.position_embeddings" not in inner
    named: dict[str, Tensor] = {}
    for name, tensor in inner.items():
        if name.startswith(("pooler.", "classifier.")):
            continue
        if name == _REGISTERS:
            named["storage_tokens" if is_dinov3 else "register_tokens"] = tensor
        else:
            named[_renamed(name)] = tensor
    return _joined(named)


def _renamed(name: str) -> str:
    for pattern, replacement in _RULES:
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    return name


def _joined(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of a block as one tensor; zeros for a bias that a part lacks.

    Parts that are not of one shape and type, weights of which one is missing, and parts that are there twice stay as
    they are, for an error to name them.
    """
    joined = dict(named)
    parts: dict[str, dict[str, int]] = {}
    for name in named:
        if match := _PART.fullmatch(name):
            parts.setdefault(f"{match[1]}.qkv.{match[3]}", {})[name] = _PARTS[match[2]]
    for whole, place in parts.items():
        given = {place[name]: named[name] for name in place}
        like = next(iter(given.values()))
        is_alike = all(part.shape == like.shape and part.dtype == like.dtype for part in given.values())
        is_enough = len(given) == 3 or whole.endswith(".bias")
        if is_alike and is_enough and like.ndim and len(given) == len(place):
            joined[whole] = torch.cat([given.get(part, torch.zeros_like(like)) for part in range(3)])
            for name in place:
                del joined[name]
    return joined
