"""What a text-to-image diffusion model understands of a sentence, measured by zero-shot segmentation.

    from attrbind_exp import load_segmenter

    segmenter = load_segmenter()
    segmenter("photo.jpg", "white dog playing with two black dogs").show()

Importing the package loads no library; each public name loads what it needs when it is first used.
"""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrbind_exp.api.load import load_segmenter
    from attrbind_exp.api.result import Comparison, Result
    from attrbind_exp.api.segmenter import LoadedSegmenter
    from attrbind_exp.edits import Averaging, Edit, NounChunk, Weight
    from attrbind_exp.heatmaps.method import HeatMapMethod
    from attrbind_exp.types import LayerChoice, UserError

__version__ = "0.1.0"

__all__ = [
    "Averaging",
    "Comparison",
    "Edit",
    "HeatMapMethod",
    "LayerChoice",
    "LoadedSegmenter",
    "NounChunk",
    "Result",
    "UserError",
    "Weight",
    "__version__",
    "load_segmenter",
]

_HOMES = {
    "load_segmenter": "api.load",
    "LoadedSegmenter": "api.segmenter",
    **dict.fromkeys(("Result", "Comparison"), "api.result"),
    **dict.fromkeys(("Edit", "NounChunk", "Averaging", "Weight"), "edits"),
    "HeatMapMethod": "heatmaps.method",
    **dict.fromkeys(("LayerChoice", "UserError"), "types"),
}

# Threads that wait must not spin: on two cores with other work on them a run took up to four times as long. OpenMP
# reads this once, when torch loads. What the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")


def __getattr__(name: str) -> object:
    """A public name, from the module that has it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
