"""The tiny CLIP: a text encoder and an image encoder, trained so that captions and their pictures find each other.

Stable Diffusion's text encoder was trained like this. It must tell a caption from those of other pictures. For that a
bag of words is enough: which colour goes with which shape hardly matters. That is where mis-binding comes from.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from attrbind_exp.pretrain import architecture
from attrbind_exp.pretrain.captions import PREFIX, jumble, training_caption
from attrbind_exp.pretrain.loop import Batch, Log, Plan, load_average, train
from attrbind_exp.pretrain.pictures import as_tensor, draw_pictures
from attrbind_exp.pretrain.scenes import COLOURS, SHAPES, SPLITS, Scene, place, scene_rng, training_scene

LOWEST_TEMPERATURE = 1 / 100  # CLIP's own bound
TOKENIZER_TEXTS = 4000  # captions that the tokenizer learns its merges from
TWO_PHRASES = PREFIX + "a {other_colour} {other_shape} and a {colour} {shape}"


class Clip(nn.Module):
    """CLIP: text encoder, image encoder, projection and temperature. Stable Diffusion keeps the text encoder alone."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text_encoder: CLIPTextModel = architecture.build_text_encoder(tokenizer)
        self.image_encoder = architecture.build_image_encoder()
        self.projection = nn.Linear(architecture.WIDTH, architecture.WIDTH, bias=False)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(0.07)))

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Unit vectors (B, D) of token ids (B, L): the mean of the states of start, words and end, projected.

        CLIP itself takes the state at the end alone. An encoder as small as this one then keeps nothing of a word in
        the word's own state, which is the state that segmentation reads (docs/negative-results.md).
        """
        end = (ids == self.text_encoder.config.eos_token_id).int()
        pooled = (end.cumsum(-1) - end == 0)[..., None]  # (B, L, 1), False for the padding
        states = self.text_encoder(ids).last_hidden_state
        return F.normalize(self.projection((states * pooled).sum(1) / pooled.sum(1)).float(), dim=-1)

    def embed_images(self, pictures: Tensor) -> Tensor:
        """Unit vectors (B, D) of pictures (B, 3, 64, 64) in [-1, 1]."""
        return F.normalize(self.image_encoder(pictures).float(), dim=-1)

    def forward(self, ids: Tensor, pictures: Tensor) -> Tensor:
        """CLIP's loss of a batch: how well each caption finds its picture, and each picture its caption."""
        scale = 1 / self.log_temperature.exp().clamp_min(LOWEST_TEMPERATURE)
        scores = scale * self.embed_texts(ids) @ self.embed_images(pictures).T
        own = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Token ids (B, L) of texts, padded to the full window."""
    return tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids


def cut_padding(ids: Tensor, end: int) -> Tensor:
    """Token ids (B, L) without the columns that are padding in every row. `end` is the id of the end token.

    The encoder is causal, so the states before the padding stay the same.
    """
    return ids[:, : int((ids == end).int().argmax(-1).max()) + 1]


def build_clip(seed: int) -> tuple[CLIPTokenizer, Clip]:
    """The tokenizer, and the untrained CLIP of one seed."""
    texts = [training_caption(np.random.default_rng([7, i]), training_scene(i)) for i in range(TOKENIZER_TEXTS)]
    tokenizer = architecture.build_tokenizer(texts)
    torch.manual_seed(seed)
    return tokenizer, Clip(tokenizer)


def load_clip(seed: int, folder: Path) -> tuple[CLIPTokenizer, Clip]:
    """The tokenizer, and the trained CLIP in `folder`, frozen."""
    tokenizer, clip = build_clip(seed)
    load_average(folder / "clip.safetensors", clip)
    return tokenizer, clip.eval().requires_grad_(False)


def train_clip(
    plan: Plan, jumbled: float, scenes: Sequence[Scene], pictures: Tensor, device: torch.device, folder: Path, log: Log
) -> tuple[float, dict[str, float]]:
    """Train CLIP. Returns the mean loss at the end, and what `caption_preference` and `noun_variance` find, in percent.

    `jumbled`: the share of captions whose words come in random order, as in many of the alternative texts that CLIP
    learned from. The larger it is, the more of a bag of words CLIP learns. `pictures`: (scenes, 3, 64, 64) uint8.
    """
    tokenizer, clip = build_clip(plan.seed)
    clip.to(device)
    if device.type == "cpu":
        clip.text_encoder.set_attn_implementation("eager")  # on a CPU the fused kernel's gradient is slower

    def sample(step: int) -> Batch:
        rng = np.random.default_rng([plan.seed, 2, step])
        chosen = rng.integers(0, len(scenes), plan.batch)
        captions = [training_caption(rng, scenes[i]) for i in chosen]
        ids = tokenize(tokenizer, [jumble(rng, c) if rng.random() < jumbled else c for c in captions])
        ids = cut_padding(ids, tokenizer.eos_token_id)
        return ids.to(device), as_tensor(pictures[chosen]).to(device)

    last = train(clip, sample, clip, plan, folder, log)
    preferred = caption_preference(tokenizer, clip.cpu())
    known = noun_variance(tokenizer, clip.text_encoder, TWO_PHRASES)
    facts = {f"true caption preferred to one with {k}": v for k, v in preferred.items()}
    return last, facts | {f"variance of the second noun by {k}": v for k, v in known.items()}


@torch.no_grad()
def caption_preference(tokenizer: CLIPTokenizer, clip: Clip, count: int = 500) -> dict[str, float]:
    """How often CLIP prefers a picture's true caption to a false one, in percent. Chance is 50.

    A false caption names a wrong colour, a wrong shape, or has the two colours swapped. `count` scenes of two objects
    each are drawn for this.
    """
    scenes, captions = [], []
    for index in range(count):
        rng = scene_rng("val", index, purpose=3)
        a, b, other_shape = (str(s) for s in rng.choice(SHAPES, 3, replace=False))
        c, d, other_colour = (str(s) for s in rng.choice(list(COLOURS), 3, replace=False))
        scenes.append(place(rng, [(a, c), (b, d)], (SPLITS["val"], index, 4)))
        pairs = [((c, a), (d, b)), ((other_colour, a), (d, b)), ((c, other_shape), (d, b)), ((d, a), (c, b))]
        captions += [PREFIX + " and ".join(f"a {' '.join(p)}" for p in two) for two in pairs]
    images = clip.embed_images(as_tensor(draw_pictures(scenes)))  # (count, D)
    texts = clip.embed_texts(tokenize(tokenizer, captions)).unflatten(0, (count, 4))  # (count, 4, D)
    scores = (texts @ images[..., None])[..., 0]
    right = 100 * (scores[:, :1] > scores[:, 1:]).float().mean(0)
    return dict(zip(("wrong colour", "wrong shape", "swapped colours"), right.tolist(), strict=True))


@torch.no_grad()
def noun_variance(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, caption: str, count: int = 3000
) -> dict[str, float]:
    """What the state of a caption's last noun depends on, in percent of its variance over random words.

    "shape" and "colour" are the noun's own words, "other shape" and "other colour" those of the other phrase. The rest
    to 100 are interactions. `caption` ends in {colour} and {shape}, and may hold {other_colour} and {other_shape}.
    """
    rng = np.random.default_rng(0)
    drawn = {
        "shape": rng.choice(SHAPES, count),
        "colour": rng.choice(list(COLOURS), count),
        "other shape": rng.choice(SHAPES, count),
        "other colour": rng.choice(list(COLOURS), count),
    }
    names = [name.replace(" ", "_") for name in drawn]
    texts = [caption.format(**dict(zip(names, words, strict=True))) for words in zip(*drawn.values(), strict=True)]
    ids = tokenize(tokenizer, texts)
    last = (ids == tokenizer.eos_token_id).int().argmax(-1) - 1
    states = text_encoder(ids).last_hidden_state[torch.arange(count), last].float()  # (count, D)
    total = states.var(0, correction=0).sum()
    shares = {}
    for name, words in drawn.items():
        by_word = {word: states[torch.from_numpy(words == word)].mean(0) for word in np.unique(words)}
        means = torch.stack([by_word[word] for word in words])  # (count, D)
        shares[name] = float(100 * means.var(0, correction=0).sum() / total)
    return shares
