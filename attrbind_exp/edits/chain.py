"""Prompts and chains of edits -> the embeddings that passes are conditioned on."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding, EncodedText
from attrbind_exp.edits.edit import Edit
from attrbind_exp.edits.variant import Variant
from attrbind_exp.language.window import Text
from attrbind_exp.types import Prompt, UserError

Encode = Callable[[Sequence[Text]], list[EncodedText]]


@dataclass(frozen=True)
class EditedPrompt:
    """A prompt under every variant: `embeddings` holds each distinct one once, `index[variant]` says which of them it
    is. Those that only differ in what is read share a pass (`Embedding.shares_pass`). `keys`, one of each embedding:
    prompts whose embeddings have the same key have the same embedding."""

    prompt: Prompt
    embeddings: Sequence[Embedding]
    index: Sequence[int]
    keys: Sequence[Hashable]

    def embedding(self, variant: int) -> Embedding:
        """The embedding under the variant of this number."""
        return self.embeddings[self.index[variant]]


def edit_prompts(prompts: Sequence[Prompt], variants: Sequence[Variant], encode: Encode) -> list[EditedPrompt]:
    """Every prompt under every variant.

    Each distinct text is encoded once. Variants whose edits come to the same for a prompt (nothing to bind, alpha = 1)
    share one embedding; so do equal prompts, and prompts of which the edits leave nothing. Those whose edits differ in
    what is read alone are conditioned on the same tensors.
    """
    chains = [[changing(prompt, v.edits) for v in variants] for prompt in prompts]
    needed = [
        text
        for prompt, row in zip(prompts, chains, strict=True)
        for edit in dict.fromkeys(edit for chain in row for edit in chain)
        for text in edit.texts(prompt)
    ]
    texts: list[Text] = list(dict.fromkeys([*(p.text for p in prompts), *needed, ""]))
    encoded = dict(zip(texts, encode(texts), strict=True))
    edited = []
    conditions: dict[Hashable, Embedding] = {}
    made: dict[Hashable, Embedding] = {}
    for prompt, row in zip(prompts, chains, strict=True):
        distinct = list(dict.fromkeys(row))
        keys = [embedding_key(prompt, chain) for chain in distinct]
        for key, chain in zip(keys, distinct, strict=True):
            if key not in made:
                acting = acting_on_pass(chain)
                on = embedding_key(prompt, acting)
                if on not in conditions:
                    conditions[on] = condition(acting, prompt, encoded)
                made[key] = replace(conditions[on], read=read_text(chain, prompt, encoded))
        index = [distinct.index(chain) for chain in row]
        edited.append(EditedPrompt(prompt, [made[key] for key in keys], index, keys))
    return edited


def embedding_key(prompt: Prompt, chain: Sequence[Edit]) -> Hashable:
    """What an embedding depends on, of one model: the last edit alone where that one is blind to all else."""
    return chain[-1] if ends_blind(chain) else (prompt, tuple(chain))


def ends_blind(chain: Sequence[Edit]) -> bool:
    """Whether the last edit leaves nothing of the prompt."""
    return bool(chain) and chain[-1].blind and chain[-1].where == "both"


def changing(prompt: Prompt, edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits that can change something for a prompt: where there is nothing to bind, those without a gate alone."""
    return tuple(edit for edit in edits if (prompt.bind or not edit.gated) and edit.changes(prompt))


def acting_on_pass(chain: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits that change what a pass is conditioned on."""
    return tuple(edit for edit in chain if edit.where != "read")


def apply_chain(chain: Sequence[Edit], prompt: Prompt, encoded: Mapping[Text, EncodedText]) -> Embedding:
    """The prompt's embedding after every edit in turn."""
    return replace(condition(acting_on_pass(chain), prompt, encoded), read=read_text(chain, prompt, encoded))


def read_text(chain: Sequence[Edit], prompt: Prompt, encoded: Mapping[Text, EncodedText]) -> Tensor | None:
    """The text (L, D) that is read: the keys as they are edited, and what only changes the reading, in turn. None where
    nothing does."""
    if not any(edit.where == "read" for edit in chain):
        return None
    read = encoded[prompt.text].states
    for edit in chain:
        if edit.where != "values":
            read = _apply(edit, read, encoded, prompt)
    return read


def condition(chain: Sequence[Edit], prompt: Prompt, encoded: Mapping[Text, EncodedText]) -> Embedding:
    """What a pass is conditioned on after every edit in turn. Keys and values go apart at the first edit of one side
    alone."""
    plain = encoded[prompt.text]
    keys = plain.states
    values: Tensor | None = None  # None: the same as the keys
    pooled = plain.pooled
    blind = False
    for edit in chain:
        pooled = edit.pool(pooled, encoded)
        if edit.where != "both" and values is None:
            values = keys
        if values is not None and edit.where in ("both", "values"):
            values = _apply(edit, values, encoded, prompt)
        if edit.where in ("both", "keys"):
            keys = _apply(edit, keys, encoded, prompt)
            blind = edit.blind
    return Embedding(keys, values, pooled, blind=blind)


def _apply(edit: Edit, E: Tensor, encoded: Mapping[Text, EncodedText], prompt: Prompt) -> Tensor:
    """The edited embedding (L, D). Raises UserError where it is none, or where E itself was changed: other variants,
    and prompts in other passes, are conditioned on E."""
    before, name = _writes(E), type(edit).__name__
    edited = edit.apply(E, encoded, prompt)
    if _writes(E) != before:
        raise UserError(f"{name}.apply changed E itself, which other edits are given, too; change E.clone()")
    if not isinstance(edited, Tensor) or edited.shape != E.shape:
        kind = f"shape {tuple(edited.shape)}" if isinstance(edited, Tensor) else f"a {type(edited).__name__}"
        raise UserError(f"{name}.apply gave {kind}, not an embedding (L, D) = {tuple(E.shape)}, as it was given")
    return edited


def _writes(E: Tensor) -> int:
    """How often E was written to, as torch counts; it does not count for tensors of torch.inference_mode."""
    return 0 if E.is_inference() else E._version
