"""Reading attention out of one UNet pass without keeping what nobody reads.

Layers are named as diffusers names them; a layer's `ratio` says how much coarser than the latents it works (1, 2, 4, 8:
64, 32, 16, 8 cells a side for Stable Diffusion 1.x at 512 px). Cross-attention layers give one map, their probabilities
pooled over the target's tokens; full-resolution self-attention layers leave their queries and keys, from which
`segmentation.score_map.complete` works without any N x N matrix.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

from attrbind_exp.types import UserError

BLOCKS = ("down", "mid", "up")


@dataclass(frozen=True)
class Layer:
    """One attention layer: its processor's name in the UNet, its block (down, mid, up) and its ratio."""

    name: str
    block: str
    ratio: int
    cross: bool


@dataclass
class Recording:
    """What one pass left behind. `cross[ratio]`: (B, n) maps, one a layer, averaged over heads, n cells in row order;
    `full`: queries and keys (B, heads, N, d) of the full-resolution self-attention layers; `scale`: their 1/sqrt(d)."""

    cross: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    full: list[tuple[Tensor, Tensor, float]] = field(default_factory=list)


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


def choose_layers(
    layers: Sequence[Layer], ratios: Sequence[int] | None = None, blocks: Sequence[str] | None = None
) -> list[Layer]:
    """The cross-attention layers of these ratios and blocks (None = all), and every full-resolution self-attention.

    Raises UserError when a ratio or block has no layer, naming those that do.
    """
    cross = [x for x in layers if x.cross]
    known_ratios, known_blocks = (
        sorted({x.ratio for x in cross}),
        [b for b in BLOCKS if any(x.block == b for x in cross)],
    )
    for given, known, key in ((ratios, known_ratios, "ratios"), (blocks, known_blocks, "blocks")):
        for value in given or []:
            if value not in known:
                choices = ", ".join(str(k) for k in known)
                raise UserError(f"attention_layers.{key} holds {value!r}; this model has {choices}")
    chosen = [x for x in cross if x.ratio in (ratios or known_ratios) and x.block in (blocks or known_blocks)]
    if not chosen:
        raise UserError(f"attention_layers: no cross-attention layer has ratio in {ratios} and block in {blocks}")
    return chosen + [x for x in layers if not x.cross and x.ratio == 1]


@contextmanager
def record(unet: UNet2DConditionModel, layers: Sequence[Layer], weights: Tensor) -> Iterator[Recording]:
    """Within the block, UNet passes of a batch of B leave their attention in the Recording.

    `weights` (B, L) pools the text tokens of each row's target. The UNet is as before afterwards, whatever happens.
    """
    before = unet.attn_processors
    recording = Recording()
    reading = {x.name: _CrossReader(recording, x.ratio, weights) if x.cross else _SelfReader(recording) for x in layers}
    try:
        unet.set_attn_processor(dict(before) | reading)
        yield recording
    finally:
        unet.set_attn_processor(before)


def _heads(attn: Attention, states: Tensor) -> Tensor:
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, n, heads * d) -> (B, heads, n, d)


def _output(attn: Attention, states: Tensor) -> Tensor:
    merged = states.transpose(1, 2).flatten(2)  # (B, heads, n, d) -> (B, n, heads * d)
    return attn.to_out[1](attn.to_out[0](merged))


class _CrossReader:
    """Cross-attention that also pools its probabilities. They are n x L, small enough to be had in the open."""

    def __init__(self, recording: Recording, ratio: int, weights: Tensor):
        self.recording, self.ratio, self.weights = recording, ratio, weights

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask=None, **_):
        query = _heads(attn, attn.to_q(hidden_states))
        key, value = _heads(attn, attn.to_k(encoder_hidden_states)), _heads(attn, attn.to_v(encoder_hidden_states))
        if attn.upcast_attention:  # Stable Diffusion 2.1's scores overflow fp16
            query, key = query.float(), key.float()
        scores = query * attn.scale @ key.transpose(-1, -2)  # (B, heads, n, L)
        probabilities = scores.float().softmax(-1)
        # Pooling tokens before averaging heads leaves (B, heads, n, 1) instead of another (B, n, L).
        pooled = probabilities @ self.weights.float()[:, None, :, None]
        self.recording.cross[self.ratio].append(pooled.squeeze(-1).mean(1))  # (B, n)
        return _output(attn, probabilities.to(value.dtype) @ value)


class _SelfReader:
    """Self-attention by the fused kernel, queries and keys kept. Its scores are fp32 inside, whatever the inputs are:
    all that `upcast_attention` asks for."""

    def __init__(self, recording: Recording):
        self.recording = recording

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states=None, attention_mask=None, **_):
        query, key, value = (_heads(attn, to(hidden_states)) for to in (attn.to_q, attn.to_k, attn.to_v))
        self.recording.full.append((query, key, attn.scale))
        return _output(attn, F.scaled_dot_product_attention(query, key, value, scale=attn.scale))
