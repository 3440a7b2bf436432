"""The networks that have a name, of all systems. Imports no torch."""

from collections import ChainMap
from collections.abc import Callable, MutableMapping
from typing import Any

from nemf.lpmflow import presets as lpmflow
from nemf.model import presets as nemf
from nemf.pmnc import presets as pmnc

PRESETS: MutableMapping[str, Callable[[], Any]] = ChainMap(nemf.PRESETS, lpmflow.PRESETS, pmnc.PRESETS)
"""Functions that return a configuration: a NeMFConfig, an LPMFlowConfig or a PMNCConfig."""
