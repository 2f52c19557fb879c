"""A picture's panels -> the masks that they show, for a viewer that lays them over the photo."""

from collections.abc import Mapping

import numpy as np

from attrbind_exp.runs.masks import Mask
from attrbind_exp.tasks.task import Panel
from attrbind_exp.types import IGNORED

TRUTH, MASK = 1, 2  # labels: a viewer gives each a colour


def panel_masks(panels: Mapping[str, Panel]) -> dict[str, Mask]:
    """The masks of a picture by panel: the ground truth, each variant's mask at its threshold, or its classes."""
    masks = {}
    for name, panel in panels.items():
        if panel.values is None:
            continue
        if panel.kind == "mask":
            masks[name] = Mask(TRUTH * panel.values.astype(np.uint8), {TRUTH: "ground truth"})
        elif panel.kind == "labels":
            # All classes, whichever stand here: a viewer has one list for all pictures of a gallery.
            names = {label: meaning for label, meaning in panel.names.items() if label} | {IGNORED: "not scored"}
            masks[name] = Mask(panel.values, names)
        elif panel.threshold is not None:
            inside = panel.values >= np.float32(panel.threshold)
            masks[name] = Mask(MASK * inside.astype(np.uint8), {MASK: f"mask at {panel.threshold:.2f}"})
    return masks
