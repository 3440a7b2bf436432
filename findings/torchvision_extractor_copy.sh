#!/usr/bin/env bash
# Seen 2026-11-30 with torchvision 0.29.2 and torch 2.15.0, on a CPU.
# Expected: copy.deepcopy of a module in eval mode is a module in eval mode, as it is for the network itself and for a graph
# that torch.fx traced.
# What happens: the copy of what create_feature_extractor returns is in training mode, whatever the extractor was in: its batch
# normalisations use the statistics of the batch and change their running ones, and dropout is live. It is a plain GraphModule, no
# longer torchvision's class with two graphs, so that train() and eval() no longer switch between these; attributes that
# were set on the extractor are gone. No error and no warning.
# Why it matters: averages of weights (torch's AveragedModel), folding of normalisations, lower precision
# and anything else that works on a copy then give other feature maps, and others for the same image in another batch.
# copy.deepcopy(extractor).eval() gives the maps of the extractor.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.15.0 torchvision==0.29.2 || { echo "could not install"; exit 2; }
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import copy
import sys

import torch
import torchvision
from torch import fx
from torch.optim.swa_utils import AveragedModel
from torchvision.models.feature_extraction import create_feature_extractor

changed = False


def check(what, seen, stated):
    global changed
    print(f"{what}: {seen}")
    if seen != stated:
        changed = True
        print(f"  CHANGED, it was: {stated}")


torch.manual_seed(0)
network = torchvision.models.resnet18(weights=None).eval()
extractor = create_feature_extractor(network, {"layer2": "map"})
extractor.note = "of the caller"
copied = copy.deepcopy(extractor)
image = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    expected, kept = extractor(image)["map"], copied.bn1.running_mean.clone()
    alone, beside = copied(image)["map"], copied(torch.cat([image, torch.zeros_like(image)]))["map"][:1]

check("in training mode: the extractor, its copy", (extractor.training, copied.training), (False, True))
check("in training mode: a copy of the network", copy.deepcopy(network).training, False)
check("in training mode: a copy of a traced graph", copy.deepcopy(fx.symbolic_trace(network)).training, False)
check("in training mode: torch's average of the extractor", AveragedModel(extractor).module.training, True)
check("the copy's class", type(copied).__name__, "GraphModule")
check("the copy has the attribute", hasattr(copied, "note"), False)
check("the copy's maps are the extractor's", torch.allclose(alone, expected, atol=1e-3), False)
check("they depend on the rest of the batch", not torch.allclose(alone, beside, atol=1e-3), True)
check("a pass changes its running statistics", not torch.equal(copied.bn1.running_mean, kept), True)
again = copy.deepcopy(extractor).eval()
with torch.no_grad():
    check("after eval() they are the extractor's", torch.equal(again(image)["map"], expected), True)
sys.exit(changed)
PYTHON
