#!/usr/bin/env bash
# Seen 2026-11-30 with torch 2.15.0 (oneDNN 3.13.3) and timm 1.0.31, on an Intel Xeon with AMX, one thread; torch 2.9.0 gives
# the same numbers.
# Expected: a convolution of ones with ones is the number of its products, in bfloat16 too, where these numbers are exact.
# What happens: on processors with AMX (Intel Xeons from Sapphire Rapids on) some shapes leave out a quarter of the products to
# three quarters of them, without an error or a warning. Without padding these are 16 or 24 channels with kernels and strides
# of 4 x 4, and 8 channels with 8 x 8; others of few channels with even kernels of 4 or more too. Kernels of 2 x 2 or 3 x 3,
# 32 channels, float16, float32 and the gradients of the same convolutions are right, as is everything with oneDNN held to
# AVX512-BF16.
# Why it matters: bfloat16 on a CPU (torch.autocast, or a model in it) is a few times faster there, and of the 1,371 networks of
# timm one has such a convolution: visformer_tiny, whose first map has nothing to do with the one in float32.
# Where the shapes are one's own, comparing each convolution with itself in float32, once, finds those that are wrong.
set -euo pipefail

grep -q amx_bf16 /proc/cpuinfo || { echo "needs a processor with AMX"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.15.0 torchvision==0.29.2 timm==1.0.31 || { echo "could not install"; exit 2; }
cd "$folder"
cat > convolutions.py <<'PYTHON'
import sys

import timm
import torch
from torch.nn.functional import conv2d, cosine_similarity

is_amx, changed = sys.argv[1] == "amx", False


def check(what, seen, stated):
    global changed
    print(f"{what}: {seen}")
    if seen != stated:
        changed = True
        print(f"  CHANGED, it was: {stated}")


def of_ones(channels, side, dtype=torch.bfloat16):
    image = torch.ones(1, channels, 64, 64, dtype=dtype)
    weight = torch.ones(8, channels, side, side, dtype=dtype)
    return conv2d(image, weight, stride=side).unique().tolist()


torch.set_num_threads(1)
print("AMX" if is_amx else "held to AVX512-BF16")
check("16 channels, 4 x 4, of 256", of_ones(16, 4), [128.0 if is_amx else 256.0])
check("24 channels, 4 x 4, of 384", of_ones(24, 4), [288.0 if is_amx else 384.0])
check("8 channels, 8 x 8, of 512", of_ones(8, 8), [128.0 if is_amx else 512.0])
check("16 channels, 2 x 2, of 64", of_ones(16, 2), [64.0])
check("32 channels, 4 x 4, of 512", of_ones(32, 4), [512.0])
check("16 channels, 4 x 4, float16", of_ones(16, 4, torch.float16), [256.0])
check("16 channels, 4 x 4, float32", of_ones(16, 4, torch.float32), [256.0])
image = torch.ones(1, 16, 64, 64, dtype=torch.bfloat16, requires_grad=True)
weight = torch.ones(8, 16, 4, 4, dtype=torch.bfloat16, requires_grad=True)
conv2d(image, weight, stride=4).sum().backward()
gradients = image.grad.unique().tolist(), weight.grad.unique().tolist()
check("its gradients, of 8 channels and of 16 x 16 places", gradients, ([8.0], [256.0]))

torch.manual_seed(0)
network = timm.create_model("visformer_tiny", pretrained=False, features_only=True).eval()
image = torch.rand(1, 3, 224, 224)
with torch.no_grad():
    expected = network(image)[0]
    with torch.autocast("cpu", torch.bfloat16):
        seen = network(image)[0].float()
cosine = cosine_similarity(expected.flatten(), seen.flatten(), dim=0).item()
print(f"  (cosine {cosine:.3f})")
check("visformer_tiny's first map is that of float32", cosine > 0.99, not is_amx)
sys.exit(changed)
PYTHON
venv/bin/python -W ignore convolutions.py amx
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 venv/bin/python -W ignore convolutions.py held
