"""The published recipe, written to be read: every attention matrix is materialised, one prompt at a time.

This is what the fast core must equal. It shares no code with it beyond the loaded weights.
"""

import re
from collections import defaultdict

import torch
from torch.nn import functional as F


class KeepEverything:
    """diffusers' plain attention, its probability matrix appended to a list under the layer's name."""

    def __init__(self, name, kept):
        self.name, self.kept = name, kept

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = attn.head_to_batch_dim(attn.to_k(context)), attn.head_to_batch_dim(attn.to_v(context))
        probabilities = attn.get_attention_scores(query, key)  # (B * heads, n, n or L)
        heads = attn.heads
        self.kept[self.name] = probabilities.unflatten(0, (-1, heads))  # (B, heads, n, n or L)
        output = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](output))


def normalise(m):
    if m.max() == m.min():
        return torch.zeros_like(m)
    return (m - m.min()) / (m.max() - m.min())


def bilinear(m, size):
    return F.interpolate(m[None, None], size, mode="bilinear", align_corners=False)[0, 0]


@torch.no_grad()
def reference_heat_map(unet, noisy, timestep, embedding, uncond, columns, weights, image_size, last_only=False):
    """The heat map (H, W) of one prompt on one image.

    noisy: (1, C, h, w); embedding, uncond: (L, D); columns: token positions of the target; weights: {ratio: weight}.
    The unconditional half is computed and thrown away, as the published code does.
    """
    kept = {}
    before = unet.attn_processors
    unet.set_attn_processor({name: KeepEverything(name, kept) for name in before})
    try:
        unet(torch.cat([noisy, noisy]), timestep, torch.stack([uncond, embedding]))
    finally:
        unet.set_attn_processor(before)

    h, w = noisy.shape[-2:]
    cross, self_full = defaultdict(list), []
    for name, probabilities in kept.items():
        conditional = probabilities[1].mean(0)  # mean over heads: (n, n or L)
        level = depth_of(name, len(unet.config.block_out_channels))
        if ".attn2." in name:
            cross[level].append(conditional)
        elif level == 0:
            self_full.append(conditional)

    score = torch.zeros(h, w, dtype=noisy.dtype)
    for level, layers in cross.items():
        grid_h, grid_w = h, w
        for _ in range(level):
            grid_h, grid_w = (grid_h + 1) // 2, (grid_w + 1) // 2
        mean = sum(layers) / len(layers)  # (n, L)
        tokens = [columns[-1]] if last_only else columns
        token_map = sum(mean[:, i] for i in tokens) / len(tokens)
        score += weights[2**level] * normalise(bilinear(token_map.reshape(grid_h, grid_w), (h, w)))

    S = sum(self_full) / len(self_full)  # (N, N)
    completed = (S @ score.flatten()).reshape(h, w)
    return normalise(bilinear(completed, image_size))


def sharpen(unet, factor=16):
    """Make a randomly initialised UNet attend to something.

    Fresh weights attend almost uniformly: the completed map spans half a percent of its value, and min-max would magnify
    rounding two hundred times.
    """
    for name, parameter in unet.named_parameters():
        if ".to_q." in name:
            parameter.data.mul_(factor)


def depth_of(name, blocks):
    """How many halvings lie between the latents and this layer."""
    if name.startswith("mid_block"):
        return blocks - 1
    index = int(re.search(r"blocks\.(\d+)\.", name).group(1))
    return index if name.startswith("down_blocks") else blocks - 1 - index
