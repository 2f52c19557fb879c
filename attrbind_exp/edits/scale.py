"""Scaling of the target's embedding, as iSeg reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrbind_exp.edits.edit import Edit
from attrbind_exp.language.window import Text, as_slice
from attrbind_exp.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


@dataclass(frozen=True)
class Scale(Edit):
    """E_q <- s E_q: the target noun's rows are multiplied.

    Source: iSeg (arXiv 2409.03209), which has s = 1.6 for the class name. Weight moves a row away from the empty
    prompt's, this one away from zero. Departure: iSeg scales before it conditions Stable Diffusion 2.1 and reads
    entropy-sharpened maps; here the edit alone is taken.
    """

    factor: float

    def changes(self, prompt: Prompt) -> bool:
        """Not at factor 1."""
        return self.factor != 1

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with the rows q scaled."""
        edited, at = E.clone(), as_slice(prompt.q)
        edited[at] = self.factor * E[at]
        return edited
