"""Unconditioned embedding averaging (UEA), equation 4 of the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrbind_exp.edits.edit import Edit
from attrbind_exp.language.window import Text, as_slice
from attrbind_exp.types import Prompt, UncondRule

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


@dataclass(frozen=True)
class Averaging(Edit):
    """E_q <- alpha E_q + (1 - alpha) U_q: the target noun's rows are mixed with the empty prompt's.

    alpha = 1 changes nothing, alpha < 1 takes weight from the target noun, alpha > 1 adds to it. `uncond`: which rows
    of the empty prompt are U: the "same" positions (what the paper's ancestry suggests), its end token everywhere
    ("eos"), or the "mean" of all rows after the first.

    This is the formula that the prompt weighting library compel uses for weights above 1, taken below 1. compel itself
    goes on for weights below 1: it blends in the embedding of the prompt without the words. Equation 4 does not.
    """

    alpha: float
    uncond: UncondRule = "same"

    def changes(self, prompt: Prompt) -> bool:
        """Not at alpha = 1."""
        return self.alpha != 1

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with the rows q averaged; E may hold the chunk's rows already."""
        return average_rows(E, unconditioned(encoded[""].states, self.uncond), prompt.q, self.alpha)


def average_rows(E: "Tensor", U: "Tensor", rows: Sequence[int], alpha: float) -> "Tensor":
    """E (L, D) with its `rows` set to alpha * E + (1 - alpha) * U, U (L, D)."""
    edited, at = E.clone(), as_slice(rows)
    edited[at] = alpha * E[at] + (1 - alpha) * U[at]
    return edited


def unconditioned(U: "Tensor", rule: UncondRule) -> "Tensor":
    """The empty prompt's embedding U (L, D) as equation 4 reads it, (L, D); see Averaging.uncond."""
    if rule == "same":
        return U
    row = U[1] if rule == "eos" else U[1:].mean(0)
    return row.expand_as(U)
