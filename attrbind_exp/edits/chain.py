"""Prompts and chains of edits -> the embeddings that passes are conditioned on."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding, EncodedText
from attrbind_exp.edits.edit import Edit
from attrbind_exp.edits.variant import Variant
from attrbind_exp.types import Prompt

Encode = Callable[[Sequence[str]], list[EncodedText]]


@dataclass(frozen=True)
class EditedPrompt:
    """A prompt under every variant: `embeddings` holds each distinct one once, `index[variant]` says which of them it
    is. `keys`, one of each embedding: prompts whose embeddings have the same key have the same embedding."""

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
    share one embedding; so do equal prompts, and prompts of which the edits leave nothing.
    """
    chains = [[changing(prompt, v.edits) for v in variants] for prompt in prompts]
    needed = [
        text
        for prompt, row in zip(prompts, chains, strict=True)
        for edit in dict.fromkeys(edit for chain in row for edit in chain)
        for text in edit.texts(prompt)
    ]
    texts = list(dict.fromkeys([*(p.text for p in prompts), *needed, ""]))
    encoded = dict(zip(texts, encode(texts), strict=True))
    edited = []
    made: dict[Hashable, Embedding] = {}
    for prompt, row in zip(prompts, chains, strict=True):
        distinct = list(dict.fromkeys(row))
        keys = [embedding_key(prompt, chain) for chain in distinct]
        for key, chain in zip(keys, distinct, strict=True):
            if key not in made:
                made[key] = apply_chain(chain, prompt, encoded)
        index = [distinct.index(chain) for chain in row]
        edited.append(EditedPrompt(prompt, [made[key] for key in keys], index, keys))
    return edited


def embedding_key(prompt: Prompt, chain: Sequence[Edit]) -> Hashable:
    """What an embedding depends on, of one model: the last edit alone where that one is blind to all else."""
    if chain and chain[-1].blind and chain[-1].where == "both":
        return chain[-1]
    return prompt, tuple(chain)


def changing(prompt: Prompt, edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits that can change something for a prompt: where there is nothing to bind, those without a gate alone."""
    return tuple(edit for edit in edits if (prompt.bind or not edit.gated) and edit.changes(prompt))


def apply_chain(chain: Sequence[Edit], prompt: Prompt, encoded: Mapping[str, EncodedText]) -> Embedding:
    """The prompt's embedding after every edit in turn. Keys and values go apart at the first edit of one side alone."""
    plain = encoded[prompt.text]
    keys = plain.states
    values: Tensor | None = None  # None: the same as the keys
    pooled = plain.pooled
    for edit in chain:
        pooled = edit.pool(pooled, encoded)
        if edit.where != "both" and values is None:
            values = keys
        if values is not None and edit.where in ("both", "values"):
            values = edit.apply(values, encoded, prompt)
        if edit.where in ("both", "keys"):
            keys = edit.apply(keys, encoded, prompt)
    return Embedding(keys, values, pooled)
