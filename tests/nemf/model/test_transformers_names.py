"""Files in the layout of the library transformers; against the library itself the maps were compared by hand, version
5.24: DINOv2 with and without registers, DINOv3 and ViT, equal to 2e-7."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from nemf.model.backbone import load_backbone
from nemf.model.transformers_names import authors_names

LAYER = {
    "dinov2": "encoder.layer.0.attention.attention.query encoder.layer.0.attention.attention.key "
    "encoder.layer.0.attention.attention.value encoder.layer.0.attention.output.dense "
    "encoder.layer.0.norm1 encoder.layer.0.norm2 encoder.layer.0.mlp.fc1 encoder.layer.0.mlp.fc2 layernorm",
    "vit": "encoder.layer.0.attention.attention.query encoder.layer.0.attention.attention.key "
    "encoder.layer.0.attention.attention.value encoder.layer.0.attention.output.dense "
    "encoder.layer.0.layernorm_before encoder.layer.0.layernorm_after encoder.layer.0.intermediate.dense "
    "encoder.layer.0.output.dense layernorm",
    "dinov3": "layer.0.attention.q_proj layer.0.attention.k_proj layer.0.attention.v_proj layer.0.attention.o_proj "
    "layer.0.norm1 layer.0.norm2 layer.0.mlp.up_proj layer.0.mlp.down_proj norm",
}
AUTHORS = ["attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2"]


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape)


@pytest.mark.parametrize("kind", LAYER)
def test_modules_of_a_layer_have_their_authors_names(kind: str):
    query, key, value, *others, norm = LAYER[kind].split()
    modules = {name: numbers(2, 3) for name in (query, key, value, *others, norm)}
    tensors = {f"{name}.weight": tensor for name, tensor in modules.items()}
    named = authors_names(tensors | {"embeddings.cls_token": numbers(1)})
    assert torch.equal(named["blocks.0.attn.qkv.weight"], torch.cat([modules[query], modules[key], modules[value]]))
    for ours, theirs in zip(AUTHORS, others, strict=True):
        assert named[f"blocks.0.{ours}.weight"] is modules[theirs]
    assert named["norm.weight"] is modules[norm]
    assert len(named) == 8


def test_a_key_without_bias_has_zeros():
    bias = numbers(4)
    named = authors_names(
        {"embeddings.cls_token": bias, "layer.3.attention.q_proj.bias": bias, "layer.3.attention.v_proj.bias": bias}
    )
    assert torch.equal(named["blocks.3.attn.qkv.bias"], torch.cat([bias, torch.zeros(4), bias]))


QUERY, KEY, VALUE = (f"layer.0.attention.{part}_proj.weight" for part in "qkv")


@pytest.mark.parametrize(
    "changed",
    [
        {KEY: None},
        {KEY: torch.ones(5, 2)},
        {KEY: torch.ones(4, 2, dtype=torch.int64)},
        {QUERY: torch.tensor(1.0), KEY: torch.tensor(1.0), VALUE: torch.tensor(1.0)},
        {"layer.0.attention.query.weight": torch.ones(4, 2)},
    ],
    ids=["one is missing", "of another shape", "of another type", "numbers", "twice"],
)
def test_queries_keys_and_values_that_do_not_belong_together_are_not_joined(changed: dict[str, Tensor | None]):
    """The error about the file names them."""
    tensors = {name: torch.ones(4, 2) for name in (QUERY, KEY, VALUE)} | changed
    named = authors_names({"embeddings.cls_token": numbers(1)} | {n: t for n, t in tensors.items() if t is not None})
    assert "blocks.0.attn.qkv.weight" not in named
    assert "blocks.0.attn.q_proj.weight" in named


def test_two_networks_in_one_file(tmp_path: Path):
    tensors = {f"{role}.embeddings.cls_token": numbers(1) for role in ("teacher", "student")}
    save_file(tensors, tmp_path / "both.safetensors")
    with pytest.raises(
        ValueError, match=r"both.safetensors hold the network more than once, below student\., teacher\."
    ):
        load_backbone("timm/vit_tiny_patch16_224", tmp_path / "both.safetensors")


@pytest.mark.parametrize(
    ("of_dinov3", "expected"), [(False, "register_tokens"), (True, "storage_tokens")], ids=["dinov2", "dinov3"]
)
def test_registers_positions_and_scales(of_dinov3: bool, expected: str):
    tensors = {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.register_tokens": expected,
        "encoder.layer.11.layer_scale1.lambda1": "blocks.11.ls1.gamma",
        "encoder.layer.11.layer_scale2.lambda1": "blocks.11.ls2.gamma",
        "encoder.layer.11.mlp.weights_in.bias": "blocks.11.mlp.w12.bias",
        "encoder.layer.11.mlp.weights_out.bias": "blocks.11.mlp.w3.bias",
    }
    if of_dinov3:
        tensors["embeddings.patch_embeddings.weight"] = "patch_embed.proj.weight"
    else:
        tensors["embeddings.position_embeddings"] = "pos_embed"
        tensors["embeddings.patch_embeddings.projection.weight"] = "patch_embed.proj.weight"
    assert authors_names({name: numbers(1) for name in tensors}).keys() == set(tensors.values())


def test_other_files_stay_as_they_are():
    tensors = {"cls_token": numbers(1), "blocks.0.attn.qkv.weight": numbers(3, 1)}
    assert authors_names(tensors) == tensors


def test_a_classifier_of_transformers_is_a_backbone(tmp_path: Path):
    """Everything below 'vit.'; pooler and classifier are not needed."""
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0).eval()
    tensors = {"classifier.weight": numbers(5, 192), "vit.pooler.dense.weight": numbers(192, 192)}
    heads = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
    heads |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    for name, tensor in network.state_dict().items():
        block = name.split(".")[1] if "." in name else ""
        if ".attn.qkv." in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                kind = name.rpartition(".")[2]
                tensors[f"vit.encoder.layer.{block}.attention.attention.{part}.{kind}"] = rows.clone()
        elif name.startswith("blocks."):
            module, _, kind = name.removeprefix(f"blocks.{block}.").rpartition(".")
            tensors[f"vit.encoder.layer.{block}.{heads[module]}.{kind}"] = tensor
        else:
            renamed = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
            renamed = renamed.replace("pos_embed", "embeddings.position_embeddings").replace("norm.", "layernorm.")
            tensors[f"vit.{'embeddings.' if renamed == 'cls_token' else ''}{renamed}"] = tensor
    weights = tmp_path / "model.safetensors"
    save_file(tensors, weights)
    weights.with_suffix(".json").write_text(json.dumps({"create_kwargs": {"depth": 2}}))
    image = numbers(1, 3, 224, 224)
    backbone = load_backbone("timm/vit_tiny_patch16_224", weights, norm=True, out_indices=(1,))
    with torch.no_grad():
        expected = network.forward_features(image)[:, 1:].transpose(1, 2).view(1, 192, 14, 14)
        (actual,) = backbone(image)
    assert torch.allclose(actual, expected, atol=1e-5)
