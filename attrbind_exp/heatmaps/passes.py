"""What one pass is asked for by several heat-map methods, and what each gets of it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding, Observation, Request
from attrbind_exp.backbones.tensors import pad_rows
from attrbind_exp.heatmaps.method import HeatMapMethod
from attrbind_exp.heatmaps.plan import Plan
from attrbind_exp.heatmaps.shapes import check_floats, naming
from attrbind_exp.latent_steps.words import Words
from attrbind_exp.types import Prompt, UserError

POOLS = "a row of weights over the text's positions for each pooling"


def ask(
    methods: Mapping[str, HeatMapMethod], plan: Plan, names: Sequence[str], prompts: Sequence[Prompt], length: int
) -> tuple[dict[str, tuple[Request, slice]], Tensor]:
    """What each of several methods asks of a pass that serves all of them, and which poolings are its own; all
    poolings (B, K, L). Methods that pool alike share theirs."""
    asked = {}
    pools: list[Tensor] = []
    for name in names:
        method = methods[name]
        with naming(method, "pools"):
            made = [method.pools(prompt.read, length, prompt.content) for prompt in prompts]
            rows = [check_floats(own, {"K": None, "L": length}, POOLS) for own in made]
        most = max(map(len, rows))
        own = torch.stack([torch.cat([r, r.new_zeros(most - len(r), length)]) for r in rows])
        number = next((i for i, other in enumerate(pools) if torch.equal(own, other)), len(pools))
        pools += [own] if number == len(pools) else []
        start = sum(p.shape[1] for p in pools[:number])
        request = method.request(plan.of_method(name), plan.layers)
        if not isinstance(request, Request):
            raise UserError(f"{type(method).__name__}.request gave {request!r}; return a Request")
        asked[name] = request, slice(start, start + most)
    return asked, torch.cat(pools, 1)


def first_alike(owners: Sequence[int], words: Sequence[Words | None]) -> list[int]:
    """For every row the first with the same noisy latents: of the same image, where neither was stepped on."""
    kept = [owner if own is None else None for owner, own in zip(owners, words, strict=True)]
    return [row if owner is None else kept.index(owner) for row, owner in enumerate(kept)]


def pad(embedding: Embedding, rows: int) -> Embedding:
    """A batch's embedding with its last row repeated until there are `rows`."""
    values, pooled = (None if part is None else pad_rows(part, rows) for part in (embedding.values, embedding.pooled))
    return Embedding(pad_rows(embedding.keys, rows), values, pooled)


def of_method(seen: Observation, asked: Request, part: slice, start: int, loss: Tensor | None) -> Observation:
    """What a pass has left behind of all that one method asked for, with its poolings alone, of the text whose poolings
    begin at `start`; `loss`: the relative losses of its rows, where it asks for them."""
    cross = {layer: seen.cross[layer][:, start + part.start : start + part.stop] for layer in asked.cross}
    if not asked.by_head:  # no axis of length 1, of which a maximum over heads would be their mean without a word
        cross = {layer: pooled.mean(2) for layer, pooled in cross.items()}
    return Observation(
        cross,
        [found for found in seen.self_attention if found.layer in asked.queries_keys],
        {layer: seen.inputs[layer] for layer in asked.inputs},
        {layer: seen.outputs[layer] for layer in asked.outputs},
        seen.noise if asked.noise else None,
        loss,
    )
