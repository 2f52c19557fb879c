"""The timestep and the weights that suit a model: they come with its files, so that every way in reads it alike."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from attrbind_exp.hub import find_file
from attrbind_exp.types import UserError

NAME = "reading.json"  # beside model_index.json


@dataclass(frozen=True)
class Reading:
    """How a model is read best: `timesteps` (of 1000, averaged), and the `weights` of the maps of each ratio (how many
    times coarser than the latents)."""

    timesteps: tuple[int, ...]
    weights: Mapping[int, float]


# DiffSegmenter's for Stable Diffusion 1.x at 512 px: 8, 16, 32 and 64 cells a side. Protocol 3.2 and 3.4.
DIFFSEGMENTER = Reading((100,), {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1})


def read_reading(path: str) -> Reading:
    """The reading of a model folder, or of a hub name in the local cache: its reading.json, else DiffSegmenter's.

    Raises UserError for a reading.json of another form.
    """
    file = find_file(path, NAME)
    if file is None:
        return DIFFSEGMENTER
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        timesteps = tuple(int(t) for t in found["timesteps"])
        return Reading(timesteps, {int(ratio): float(weight) for ratio, weight in found["weights"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f'\'{file}\' cannot be read ({error!r}); give {{"timesteps": [100], "weights": {{"8": 0.3, ..}}}}, or '
            "remove it"
        ) from error
