"""Door 1: an edit of a prompt's embedding.

E: the prompt's embedding (L, D). U: the empty prompt's (L, D). POS: positions of the noun chunk that holds the target,
q: positions of the target noun, among them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal, get_args, get_origin

from attrbind_exp.language.window import Text
from attrbind_exp.types import Prompt, UserError

if TYPE_CHECKING:  # so that a table can be made of finished runs without loading torch
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText

Where = Literal["both", "keys", "values", "read"]


@dataclass(frozen=True, kw_only=True)
class Edit(ABC):
    """One edit of the embedding that cross-attention sees. Subclass it as a frozen dataclass: two edits are the same if
    their fields are.

    `where`: which side of cross-attention sees the edit, its "keys" (where the image looks), its "values" (what it
    takes from there) or "both"; "read" leaves the pass alone and edits the text whose attention is read on it.
    `gated`: whether a prompt with nothing to bind keeps its plain embedding. `blind`: whether what it makes of both
    sides is the same for every prompt, whatever came before: such prompts share it.
    """

    gated: ClassVar[bool] = True
    blind: ClassVar[bool] = False
    where: Where = "both"

    def __post_init__(self) -> None:
        """A subclass that has its own calls this one. Raises UserError for a value that its field's Literal lacks."""
        for field in fields(self):
            choices, value = get_args(field.type), getattr(self, field.name)
            if get_origin(field.type) is Literal and value not in choices:
                edit = type(self).__name__
                raise UserError(
                    f"{field.name}={value!r} of the edit {edit}; choose from {', '.join(map(str, choices))}"
                )

    def texts(self, prompt: Prompt) -> Sequence[Text]:
        """What must be encoded for this prompt besides the prompt itself and the empty prompt "": texts, or requests
        for texts that are encoded in another way."""
        return ()

    def changes(self, prompt: Prompt) -> bool:
        """Whether the edit can change anything at all for this prompt. Where it says no, `apply` is not called, and the
        variant shares the passes of those that come to the same embedding."""
        return True

    @abstractmethod
    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """The edited embedding (L, D), a new tensor.

        `E` (L, D) may have been edited before. `encoded` has the prompt, "", and what `texts` named; each knows the
        positions of its characters (`encoded[text].tokens.at(start, end)`).
        """

    def pool(self, pooled: "Tensor | None", encoded: "Mapping[Text, EncodedText]") -> "Tensor | None":
        """The edited vector of the whole text (P,), None where the model takes none. Edits of single words leave it;
        those that only change what is read are not asked."""
        return pooled
