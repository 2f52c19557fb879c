"""Completed maps of a run, one file an image: what `attrbind_exp.rescore` makes other heat maps of without a model."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from attrbind_exp.edits import Variant
from attrbind_exp.heatmaps.layers import Column
from attrbind_exp.runs.store import write_whole
from attrbind_exp.types import UserError

Places = dict[str, list[list[int]]]  # sample id -> [variant][seed] -> row of the maps


@dataclass(frozen=True)
class KeptMaps:
    """Maps (P, C, h, w) of an image's P rows of passes, float32; `columns`: the heat-map method and the column of each
    of C; `places`: which of P every sample has under every variant and seed; `variants`: method and alpha of each;
    `layers`: (name, block, ratio, cross) of the model's attention layers."""

    maps: np.ndarray
    columns: Sequence[tuple[str, Column]]
    places: Places
    variants: Sequence[tuple[str, float | None]]
    layers: Sequence[tuple[str, str, int, bool]] = ()

    def find(self, sample: str, variant: Variant, seed: int) -> np.ndarray:
        """The maps (C, h, w) of one sample under one edit of its embedding and the `seed`-th noise. Raises UserError
        where the run had no such variant."""
        if variant.edit not in self.variants:
            raise UserError(f"no maps of variant '{variant.label}' were kept; choose among those of the run")
        try:
            return self.maps[self.places[sample][self.variants.index(variant.edit)][seed]]
        except (LookupError, TypeError) as error:
            raise UserError(
                f"no maps of sample '{sample}' were kept ({error}); run it again with keep_maps=true"
            ) from error


class About(msgspec.Struct):
    """What stands beside the maps in their file."""

    places: Places
    variants: list[tuple[str, float | None]]
    columns: list[tuple[str, int, list[str]]]
    layers: list[tuple[str, str, int, bool]]


def maps_file(folder: Path, image_id: str) -> Path:
    """Where the maps of an image lie in a run's folder; ids may hold anything, file names may not."""
    return folder / "maps" / f"{hashlib.sha256(image_id.encode()).hexdigest()[:32]}.safetensors"


def write_maps(folder: Path, image_id: str, kept: KeptMaps) -> None:
    """Write an image's maps whole or not at all: float16, each stretched to [0, 1] with its range beside it, so that
    half precision is half precision of what differs within a map."""
    low, high = kept.maps.min((-2, -1)), kept.maps.max((-2, -1))  # (P, C)
    spread = np.maximum(high - low, np.finfo(np.float32).tiny)
    stretched = ((kept.maps - low[..., None, None]) / spread[..., None, None]).astype(np.float16)
    about = {
        "image_id": image_id,
        "places": kept.places,
        "variants": kept.variants,
        "columns": [[method, column.ratio, column.blocks] for method, column in kept.columns],
        "layers": kept.layers,
    }
    file = maps_file(folder, image_id)
    file.parent.mkdir(exist_ok=True)
    # Its own save_file would hide what the disk says, and shut colleagues out of the file.
    content = save({"maps": stretched, "low": low, "spread": spread}, {"about": json.dumps(about)})
    write_whole(file, lambda to: to.write_bytes(content))


def read_maps(folder: Path, image_id: str) -> KeptMaps:
    """The maps of an image. Raises UserError where there are none or they cannot be read."""
    file = maps_file(folder, image_id)
    try:
        with safe_open(file, "np") as content:
            about = msgspec.json.decode(content.metadata()["about"], type=About)
            stretched, low, spread = (content.get_tensor(name) for name in ("maps", "low", "spread"))
        count = len(about.columns)
        if not (stretched.ndim == 4 and stretched.shape[:2] == low.shape == spread.shape == (len(low), count)):
            raise ValueError(f"maps {stretched.shape} and ranges {low.shape}, {spread.shape} of {count} columns")
    except (OSError, SafetensorError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(
            f"no readable maps of image '{image_id}' at '{file}' ({str(error)[:80]}); run it again with keep_maps=true"
        ) from error
    maps = stretched.astype(np.float32) * spread[..., None, None] + low[..., None, None]
    columns = [(method, Column(ratio, tuple(blocks))) for method, ratio, blocks in about.columns]
    return KeptMaps(maps, columns, about.places, about.variants, about.layers)
