"""The published recipe, written to be read: every attention matrix is materialised, one prompt at a time.

This is what the fast core must equal. It shares no code with it beyond the loaded weights.
"""

import math
import re
from collections import defaultdict

import torch
from torch.nn import functional as F


class KeepEverything:
    """diffusers' plain attention, its probability matrix appended to a list under the layer's name; at cross-attention
    that of the text `read` (L, D) where there is one, though the layer hands on what its own text gives."""

    def __init__(self, name, kept, read):
        self.name, self.kept, self.read = name, kept, read if ".attn2." in name else None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = attn.head_to_batch_dim(attn.to_k(context)), attn.head_to_batch_dim(attn.to_v(context))
        probabilities = attn.get_attention_scores(query, key)  # (B * heads, n, n or L)
        heads, seen = attn.heads, probabilities
        if self.read is not None:
            read = attn.head_to_batch_dim(attn.to_k(self.read.expand(len(hidden_states), -1, -1)))
            seen = (query @ read.transpose(1, 2) * attn.scale).softmax(-1)
        self.kept[self.name] = seen.unflatten(0, (-1, heads))  # (B, heads, n, n or L)
        output = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](output))


def normalise(m):
    if m.max() == m.min():
        return torch.zeros_like(m)
    return (m - m.min()) / (m.max() - m.min())


def bilinear(m, size):
    return F.interpolate(m[None, None], size, mode="bilinear", align_corners=False)[0, 0]


@torch.no_grad()
def keep_all_attention(unet, noisy, timestep, embedding, uncond, read=None, **conditions):
    """Every attention matrix of the conditional half by layer name, (heads, n, n or L). The unconditional half is computed
    and thrown away, as the published code does. read: the text that cross-attention is read by, if not the embedding."""
    kept = {}
    before = unet.attn_processors
    unet.set_attn_processor({name: KeepEverything(name, kept, read) for name in before})
    try:
        unet(torch.cat([noisy, noisy]), timestep, torch.stack([uncond, embedding]), **conditions)
    finally:
        unet.set_attn_processor(before)
    return {name: probabilities[1] for name, probabilities in kept.items()}


def grid_at(level, size):
    """Cells (h, w) after so many halvings, each rounded up."""
    for _ in range(level):
        size = tuple((n + 1) // 2 for n in size)
    return tuple(size)


def reference_heat_map(
    unet, noisy, timestep, embedding, uncond, columns, weights, image_size, last_only=False, power=1, **conditions
):
    """DiffSegmenter's heat map (H, W) of one prompt on one image; with another power S ** power @ c.

    noisy: (1, C, h, w); embedding, uncond: (L, D); columns: token positions of the target; weights: {ratio: weight};
    conditions: what else the UNet takes, and `read` of keep_all_attention. Self-attention is that of the finest
    resolution that has any.
    """
    cross, own = defaultdict(list), defaultdict(list)
    for name, matrix in keep_all_attention(unet, noisy, timestep, embedding, uncond, **conditions).items():
        level = depth_of(name, len(unet.config.block_out_channels))
        (cross if ".attn2." in name else own)[level].append(matrix.mean(0))  # mean over heads: (n, n or L)

    latent = tuple(noisy.shape[-2:])
    grid = grid_at(min(own), latent)
    score = noisy.new_zeros(grid)
    for level, layers in cross.items():
        mean = sum(layers) / len(layers)  # (n, L)
        tokens = [columns[-1]] if last_only else columns
        token_map = sum(mean[:, i] for i in tokens) / len(tokens)
        score += weights[2**level] * normalise(bilinear(token_map.reshape(grid_at(level, latent)), grid))

    S = sum(own[min(own)]) / len(own[min(own)])  # (N, N)
    completed = (torch.linalg.matrix_power(S, power) @ score.flatten()).reshape(grid)
    return normalise(bilinear(bilinear(completed, latent), image_size))


def reference_daam(unet, noisy, timestep, embedding, uncond, columns, image_size, content=None, **conditions):
    """DAAM's heat map (H, W) of one prompt on one image; see attrbind_exp.heatmaps.daam for what differs from DAAM.

    Every head of every layer but those of the coarsest resolution, every piece of the word: upsampled by itself, cut off
    at zero, and averaged. content: the positions of all the text's tokens, by whose sum it is divided.
    """
    matrices = keep_all_attention(unet, noisy, timestep, embedding, uncond, **conditions)
    levels = {n: depth_of(n, len(unet.config.block_out_channels)) for n in matrices if ".attn2." in n}
    latent, maps, sums = tuple(noisy.shape[-2:]), [], []
    for name, level in levels.items():
        if level == max(levels.values()):
            continue
        for head in matrices[name]:  # (n, L)
            pieces = [head[:, i] for i in columns] + ([head[:, content].sum(-1)] if content else [])
            pieces = [piece.reshape(1, 1, *grid_at(level, latent)) for piece in pieces]
            pieces = [F.interpolate(x, latent, mode="bicubic", align_corners=False)[0, 0].clamp(min=0) for x in pieces]
            maps += pieces[: len(columns)]
            sums += pieces[len(columns) :]
    mean = sum(maps) / len(maps)
    return normalise(bilinear(mean / (sum(sums) / len(sums) + 1e-6) if content else mean, image_size))


def reference_ovam(unet, noisy, timestep, embedding, uncond, columns, image_size, **conditions):
    """OVAM's heat map (H, W): heads of every layer but the middle block's summed, layers upsampled and summed."""
    matrices = keep_all_attention(unet, noisy, timestep, embedding, uncond, **conditions)
    latent, total = tuple(noisy.shape[-2:]), 0
    for name, matrix in matrices.items():  # (heads, n, L)
        if ".attn2." in name and not name.startswith("mid_block"):
            grid = grid_at(depth_of(name, len(unet.config.block_out_channels)), latent)
            total = total + bilinear(matrix.sum(0)[:, columns].mean(-1).reshape(grid), latent)
    return normalise(bilinear(total, image_size))


def reference_iseg(unet, noisy, timestep, embedding, uncond, columns, image_size, ent=0.1, rounds=10, **conditions):
    """iSeg's heat map (H, W) of one prompt on one image, rounds and normalizations as in its script."""
    matrices = keep_all_attention(unet, noisy, timestep, embedding, uncond, **conditions)
    latent, weights, score = tuple(noisy.shape[-2:]), {1: 0.3, 2: 0.7}, 0
    finest = []
    for name, matrix in matrices.items():
        if depth_of(name, len(unet.config.block_out_channels)) == 0 and ".attn1." in name:
            finest.append(matrix.mean(0))
    for level, weight in weights.items():
        layers = [
            m.mean(0)
            for name, m in matrices.items()
            if ".attn2." in name and depth_of(name, len(unet.config.block_out_channels)) == level
        ]
        mean = sum(layers) / len(layers)  # (n, L)
        pieces = [mean[:, i].reshape(grid_at(level, latent)) for i in columns]
        pieces = [x for x in pieces if x.sum() > 0] or [torch.ones_like(pieces[0])]  # no cell attends to it: flat
        score = score + weight * sum(bilinear(x / x.sum(), latent) for x in pieces) / len(pieces)

    S = sum(finest) / len(finest)  # (N, N)
    T = S / S.max(0).values
    T = T + torch.where(T > 0, ent * (1 + T.log()) / math.log(10), torch.zeros_like(T))
    T = T.clamp(min=0)
    T = T / T.sum(1, keepdim=True)
    C = score.flatten()
    if C.max() == C.min():
        return torch.zeros(image_size, dtype=C.dtype)
    C = (C - C.min()) / (C - C.min()).sum()
    for _ in range(rounds):
        C = T @ C
        C = (C - C.min()) / (C - C.min()).sum()
    return normalise(bilinear(C.reshape(latent), image_size))


def reference_losses(unet, scheduler, latents, noise, embeddings, timesteps):
    """The denoising losses of one picture (1, C, h, w) under each embedding (L, D), summed over timesteps; noise: by
    timestep, (1, C, h, w). A prediction of v is turned into one of noise."""
    found = []
    for embedding in embeddings:
        total = 0
        for t in timesteps:
            signal = scheduler.alphas_cumprod[t].double().item()
            noisy = signal**0.5 * latents + (1 - signal) ** 0.5 * noise[t]
            predicted = unet(noisy, t, embedding[None]).sample
            if scheduler.config.prediction_type == "v_prediction":
                predicted = signal**0.5 * predicted + (1 - signal) ** 0.5 * noisy
            total += ((predicted - noise[t]) ** 2).mean().item()
        found.append(total)
    return found


def reference_elbo(unet, noisy, timestep, embedding, uncond, columns, weights, image_size, losses, number, strength=3):
    """ELBO-T2IAlign's heat map (H, W) of the text of this number among those of the losses; DiffSegmenter's cross-attention
    and self-attention."""
    e = (losses[number] - min(losses)) / (max(losses) - min(losses) + 1e-10)
    cross, own = defaultdict(list), defaultdict(list)
    for name, matrix in keep_all_attention(unet, noisy, timestep, embedding, uncond).items():
        level = depth_of(name, len(unet.config.block_out_channels))
        (cross if ".attn2." in name else own)[level].append(matrix.mean(0))
    latent = tuple(noisy.shape[-2:])
    S = sum(own[0]) / len(own[0])  # (N, N)
    heat = 0
    for level, layers in cross.items():
        token_map = (sum(layers) / len(layers))[:, columns].mean(-1).reshape(grid_at(level, latent))
        c = normalise(bilinear(token_map, latent)) ** (strength**e)
        heat = heat + weights[2**level] * (S @ c.flatten())
    return normalise(bilinear(heat.reshape(latent), image_size))


def reference_diffseg(unet, noisy, timestep, embedding, uncond, columns, image_size, points=16, tau=0.9, **conditions):
    """The heat map (H, W) by DiffSeg's segments of one image, merged one by one; three rounds."""
    blocks = len(unet.config.block_out_channels)
    latent = height, width = tuple(noisy.shape[-2:])
    cross, own = defaultdict(list), defaultdict(list)
    for name, matrix in keep_all_attention(unet, noisy, timestep, embedding, uncond, **conditions).items():
        (cross if ".attn2." in name else own)[depth_of(name, blocks)].append(matrix.mean(0))
    sides = {level: height / 2**level for level in own}
    A, score = 0, 0
    for level, layers in own.items():
        h, w = grid_at(level, latent)
        maps = (sum(layers) / len(layers)).reshape(h * w, 1, h, w)
        maps = F.interpolate(maps, latent, mode="bilinear", align_corners=False).reshape(h, w, height, width)
        maps = maps / maps.sum((2, 3), keepdim=True)
        maps = maps.repeat_interleave(2**level, 0).repeat_interleave(2**level, 1)
        A = A + maps.reshape(height * width, -1) * sides[level] / sum(sides.values())
    for level, layers in cross.items():
        token_map = (sum(layers) / len(layers))[:, columns].mean(-1).reshape(grid_at(level, latent))
        score = score + bilinear(token_map, latent) * sides[level]

    def close_to(a, maps):
        return ((a - maps) * (a.log() - maps.log())).sum(1) / 2 < tau

    lines = []
    for side in latent:
        step = (side - 1) // (points - 1)
        start = (side - 1 - step * (points - 1)) // 2
        lines.append([start + step * i for i in range(points)])
    maps = torch.stack([A[close_to(A[y * width + x], A)].mean(0) for y in lines[0] for x in lines[1]])
    for _ in range(2):
        matched, merged = set(), []
        for i, a in enumerate(maps):
            if i not in matched:
                near = close_to(a, maps)
                matched.update(near.nonzero()[:, 0].tolist())
                merged.append(maps[near].mean(0))
        maps = torch.stack(merged)
    segments, heat = maps.argmax(0), score.flatten().clone()
    for number in segments.unique():
        heat[segments == number] = score.flatten()[segments == number].mean()
    return normalise(bilinear(heat.reshape(latent), image_size))


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
