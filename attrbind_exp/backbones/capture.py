"""Reading attention out of one UNet pass at the price of little more than the pass.

Layers are named as diffusers names them; a layer's `ratio` says how much coarser than the latents it works (1, 2, 4, 8:
64, 32, 16, 8 cells a side for Stable Diffusion 1.x at 512 px). Cross-attention layers give one map, their probabilities
pooled over the target's tokens; full-resolution self-attention layers leave their queries and keys, from which
`segmentation.score_map.complete` works without any N x N matrix. The pass ends with the last layer that is read.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

SPARE = 8  # value columns added for the pooled probabilities: fused kernels take multiples of 8


@dataclass(frozen=True)
class Layer:
    """One attention layer: its processor's name in the UNet, its block (down, mid, up) and its ratio."""

    name: str
    block: str
    ratio: int
    cross: bool


@dataclass(frozen=True)
class SelfAttention:
    """What a full-resolution self-attention layer leaves: `query`, `key` (b, heads, N, d) and the `scale` of their
    product. They belong to the `rows` of the batch one by one; b = 1 serves all of them."""

    layer: str
    query: Tensor
    key: Tensor
    scale: float
    rows: Sequence[int]


@dataclass
class Recording:
    """What one pass left behind. `cross`: a map (B, n) of each cross-attention layer, averaged over heads, n cells in
    row order; `full`: its full-resolution self-attention; `awaited`: layers that have not been reached yet."""

    awaited: set[str]
    cross: dict[Layer, Tensor] = field(default_factory=dict)
    full: list[SelfAttention] = field(default_factory=list)

    def reached(self, layer: Layer) -> None:
        """Note that a layer is read. Ends the pass after the last one: nobody reads what comes behind it."""
        self.awaited.discard(layer.name)
        if not self.awaited:
            raise _Enough


class _Enough(Exception):
    """Everything is read."""


def find_layers(unet: UNet2DConditionModel) -> list[Layer]:
    """All attention layers of a UNet, in the order of its processors."""
    deepest = len(unet.config.block_out_channels) - 1
    layers = []
    for name in unet.attn_processors:
        match = re.match(r"(down|mid|up)_blocks?\.(\d+)?", name)
        if match is None:
            continue
        block, index = match[1], int(match[2] or 0)
        level = {"down": index, "mid": deepest, "up": deepest - index}[block]
        layers.append(Layer(name, block, 2**level, ".attn2." in name))
    return layers


def find_available(layers: Sequence[Layer]) -> dict[int, list[str]]:
    """Blocks that have cross-attention layers, by ratio."""
    cross = [x for x in layers if x.cross]
    return {r: list(dict.fromkeys(x.block for x in cross if x.ratio == r)) for r in sorted({x.ratio for x in cross})}


@contextmanager
def record(
    unet: UNet2DConditionModel, layers: Sequence[Layer], weights: Tensor, alike: Sequence[int] | None = None
) -> Iterator[Recording]:
    """Within the block, one UNet pass of a batch of B leaves the attention of `layers` in the Recording and goes no
    further than the last of them.

    `weights` (B, L) pools the text tokens of each row's target. `alike[i]` is the first row with the same noisy latents
    as row i, None = all differ; what the text has not touched yet is computed for that row alone. The UNet is as before
    afterwards, whatever happens.
    """
    # diffusers' own set_attn_processor walks all modules, 5 ms a pass.
    modules = {x.name: unet.get_submodule(x.name.removesuffix(".processor")) for x in layers}
    before = {name: module.processor for name, module in modules.items()}
    block = unet.down_blocks[0]
    recording = Recording({x.name for x in layers})
    alike = range(len(weights)) if alike is None else alike
    images = [Part(slice(i, i + 1), [row for row, k in enumerate(alike) if k == i]) for i in dict.fromkeys(alike)]
    whole = [Part(slice(None), list(range(len(weights))))]
    untouched = next(m for m in unet.modules() if isinstance(m, Attention))  # the first layer of all
    reading = {
        x.name: _CrossReader(recording, x, weights)
        if x.cross
        else _SelfReader(recording, x, images if modules[x.name] is untouched else whole)
        for x in layers
    }
    resnet = block.resnets[0]
    try:
        block.resnets[0] = _ByImage(resnet, images)
        for name, module in modules.items():
            module.set_processor(reading[name])
        yield recording
    except _Enough:
        pass
    finally:
        block.resnets[0] = resnet
        for name, module in modules.items():
            module.set_processor(before[name])


@dataclass(frozen=True)
class Part:
    """What goes through a module at once: `taken` of the batch, whose result belongs to `rows`, one by one or, where it
    is a single one, to all of them."""

    taken: slice
    rows: list[int]


def _assemble(results: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    """The parts' results (1 or len(rows), ...) as one batch in the order of its rows."""
    spread = [x.expand(len(part.rows), *x.shape[1:]) for x, part in zip(results, parts, strict=True)]
    if len(spread) == 1:
        return spread[0]
    order = [row for part in parts for row in part.rows]
    joined = torch.cat(spread)
    return joined if order == sorted(order) else joined[torch.tensor(order, device=joined.device).argsort()]


class _ByImage(nn.Module):
    """A module that sees no text: one row of each image goes through it, and alone, so that no row depends on what else
    is in the batch."""

    def __init__(self, module: nn.Module, images: Sequence[Part]):
        super().__init__()
        self.module, self.images = module, images

    def forward(self, states: Tensor, embedding: Tensor) -> Tensor:
        return _assemble([self.module(states[x.taken], embedding[x.taken]) for x in self.images], self.images)


def widen(values: Tensor) -> Tensor:
    """Half precision to float32, as sums and differences of probabilities need; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _heads(attn: Attention, states: Tensor) -> Tensor:
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, n, heads * d) -> (B, heads, n, d)


def _output(attn: Attention, states: Tensor) -> Tensor:
    merged = states.transpose(1, 2).flatten(2)  # (B, heads, n, d) -> (B, n, heads * d)
    return attn.to_out[1](attn.to_out[0](merged))


class _CrossReader:
    """Cross-attention by the fused kernel, with the pooling weights as one more value column: what comes out in it is
    the pooled probability, and no n x L matrix exists. Scores are fp32 inside, whatever the inputs are: all that
    `upcast_attention` asks for."""

    def __init__(self, recording: Recording, layer: Layer, weights: Tensor):
        self.recording, self.layer, self.weights = recording, layer, weights

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask=None, **_):
        query = _heads(attn, attn.to_q(hidden_states))
        key, value = _heads(attn, attn.to_k(encoder_hidden_states)), _heads(attn, attn.to_v(encoder_hidden_states))
        column = F.pad(self.weights[..., None], (0, SPARE - 1)).to(value.dtype)  # (B, L, SPARE)
        value = torch.cat([value, column[:, None].expand(-1, attn.heads, -1, -1)], -1)
        # Queries and keys get zeros to be as wide as the values: their products stay the same.
        query, key = F.pad(query, (0, SPARE)), F.pad(key, (0, SPARE))
        states = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        self.recording.cross[self.layer] = widen(states[..., -SPARE]).mean(1)  # (B, n)
        self.recording.reached(self.layer)
        return _output(attn, states[..., :-SPARE])


class _SelfReader:
    """Self-attention by the fused kernel, part by part, queries and keys kept."""

    def __init__(self, recording: Recording, layer: Layer, parts: Sequence[Part]):
        self.recording, self.layer, self.parts = recording, layer, parts

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states=None, attention_mask=None, **_):
        taken = [hidden_states[x.taken] for x in self.parts]
        pairs = [(_heads(attn, attn.to_q(x)), _heads(attn, attn.to_k(x))) for x in taken]
        left = [
            SelfAttention(self.layer.name, query, key, attn.scale, part.rows)
            for (query, key), part in zip(pairs, self.parts, strict=True)
        ]
        self.recording.full += left
        self.recording.reached(self.layer)
        results = [
            F.scaled_dot_product_attention(x.query, x.key, _heads(attn, attn.to_v(states)), scale=x.scale)
            for x, states in zip(left, taken, strict=True)
        ]
        return _assemble([_output(attn, x) for x in results], self.parts)
