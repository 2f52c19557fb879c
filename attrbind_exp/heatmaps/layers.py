"""Which cross-attention makes a heat map: from the user's choice to columns. Pure.

The score map is a weighted sum of one map per resolution, and completing it is linear: S @ sum(w c) = sum(w S @ c). So
every resolution's map is completed by itself, as one column, and any choice of weights is a sum afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from attrbind_exp.types import LayerChoice, UserError

BLOCKS = ("down", "mid", "up")


class AttentionLayer(Protocol):
    """What is asked of a layer here; see backbones.backbone.Layer."""

    @property
    def block(self) -> str: ...
    @property
    def ratio(self) -> int: ...
    @property
    def cross(self) -> bool: ...


@dataclass(frozen=True)
class Column:
    """One map that a heat-map method makes: the mean over the cross-attention layers of one ratio in some blocks."""

    ratio: int
    blocks: tuple[str, ...]


def cross_blocks(layers: Sequence[AttentionLayer]) -> dict[int, list[str]]:
    """The blocks that have cross-attention layers, by ratio, finest first."""
    cross = [x for x in layers if x.cross]
    return {r: list(dict.fromkeys(x.block for x in cross if x.ratio == r)) for r in sorted({x.ratio for x in cross})}


def find_columns(choice: LayerChoice, layers: Sequence[AttentionLayer]) -> list[Column]:
    """The columns of a choice, finest first, whatever their weights.

    Raises UserError for a ratio or block that the model does not have, naming those it has.
    """
    available = cross_blocks(layers)
    blocks = [b for b in BLOCKS if any(b in found for found in available.values())]
    for given, known, key in ((choice.ratios, sorted(available), "ratios"), (choice.blocks, blocks, "blocks")):
        for value in given or []:
            if value not in known:
                choices = ", ".join(str(k) for k in known)
                raise UserError(f"attention_layers.{key} holds {value!r}; this model has {choices}")
    chosen = {
        ratio: tuple(b for b in BLOCKS if b in available[ratio] and b in (choice.blocks or BLOCKS))
        for ratio in sorted(choice.ratios or available)
    }
    columns = [Column(ratio, found) for ratio, found in chosen.items() if found]
    if not columns:
        raise UserError(
            f"attention_layers: no cross-attention layer has ratio in {choice.ratios} and block in {choice.blocks}"
        )
    return columns


WHERE = "attention_layers.weights, else heatmap.NAME.weights, else model.weights"


def weigh_columns(columns: Sequence[Column], weights: Mapping[int, float]) -> dict[Column, float]:
    """Columns with the weight of their ratio; zeros are among them.

    Raises UserError where a ratio has no weight, and for weights that make no map.
    """
    if missing := [c.ratio for c in columns if c.ratio not in weights]:
        raise UserError(
            f"weights {dict(weights)} have none for ratio {missing[0]}; give one for each of "
            f"{[c.ratio for c in columns]} ({WHERE})"
        )
    used = {c.ratio: weights[c.ratio] for c in columns}
    if not all(w >= 0 for w in used.values()) or not any(used.values()):
        raise UserError(f"weights {used} of the chosen resolutions; give numbers >= 0, one above 0 ({WHERE})")
    return {c: weights[c.ratio] for c in columns}
