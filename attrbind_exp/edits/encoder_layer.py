"""An earlier hidden state of the text encoder as the embedding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from attrbind_exp.edits.edit import Edit
from attrbind_exp.language.window import Text, TextRequest
from attrbind_exp.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


@dataclass(frozen=True)
class EncoderLayer(Edit):
    """E <- norm(h_l): the final layer norm of the text encoder on its hidden state l, the embedding that a shorter
    encoder would give.

    l = 0 is the encoder's input, without any attention; -1 its last hidden state, the baseline. Source: Diffusion Lens
    (arXiv 2403.05846). Departures: theirs makes pictures of each layer, here maps are read. Stable Diffusion 2.x ships
    an encoder without OpenCLIP's last layer, so its -1 is OpenCLIP's last but one. What edits before have done is lost:
    this one stands first in a chain; texts that later ones lay back are encoded by the whole encoder. It applies to
    every prompt, also where nothing modifies the target.
    """

    gated: ClassVar[bool] = False
    layer: int

    def texts(self, prompt: Prompt) -> Sequence[Text]:
        """The prompt at that layer."""
        return (TextRequest(prompt.text, layer=self.layer),)

    def changes(self, prompt: Prompt) -> bool:
        """Not at the last layer."""
        return self.layer != -1

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """The prompt's embedding at the layer, whatever E was."""
        (text,) = self.texts(prompt)
        return encoded[text].states.clone()
