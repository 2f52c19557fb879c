"""Which cross-attention makes a score map: from the user's choice to value columns. Pure.

The score map c is a weighted sum of one map per resolution, and completing it is linear: S @ sum(w c) = sum(w S @ c).
So every resolution's map is completed by itself, as one column, and any choice of weights is a sum afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attrbind_exp.types import LayerChoice, UserError

BLOCKS = ("down", "mid", "up")

Available = Mapping[int, Sequence[str]]  # blocks that have cross-attention layers, by ratio


@dataclass(frozen=True)
class Column:
    """The map of one resolution: the mean over its cross-attention layers in some blocks."""

    ratio: int
    blocks: tuple[str, ...]


def find_columns(choice: LayerChoice, available: Available) -> dict[Column, float]:
    """The columns of a choice with their weights, finest first; zeros are among them.

    Raises UserError for a ratio or block that the model does not have, naming those it has, and for weights that make
    no map.
    """
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
    weights = dict(choice.weights or {c.ratio: 1.0 for c in columns})
    if missing := [c.ratio for c in columns if c.ratio not in weights]:
        raise UserError(
            f"attention_layers.weights has no weight for ratio {missing[0]}; give one for each of "
            f"{[c.ratio for c in columns]}"
        )
    used = {c.ratio: weights[c.ratio] for c in columns}
    if not all(w >= 0 for w in used.values()) or not any(used.values()):
        raise UserError(f"weights {used} of the chosen resolutions; give attention_layers.weights >= 0, one above 0")
    return {c: weights[c.ratio] for c in columns}
