"""The parts of the tiny Stable Diffusion, untrained. Each is of the class that Stable Diffusion 1.5 uses, only
smaller."""

import json
from collections.abc import Iterable
from itertools import pairwise

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PIXELS = 64  # sides of a picture
WIDTH = 128  # of the text encoder and of cross-attention
WINDOW = 24  # tokens: enough for the longest caption; CLIP has 77 (docs/negative-results.md says why not here)
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(texts: Iterable[str], merges: int = 400) -> CLIPTokenizer:
    """A CLIP tokenizer that learns its `merges` from `texts`. Other words fall into pieces, down to single bytes."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) * 2 + merges, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    learned = [tuple(m) for m in json.loads(trained.to_str())["model"]["merges"]]
    pieces = alphabet + [a + "</w>" for a in alphabet] + ["".join(m) for m in learned] + [START, END]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=learned, model_max_length=WINDOW)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text encoder with three causal layers of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=WINDOW,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_image_encoder() -> nn.Module:
    """CLIP's image encoder: strided convolutions that turn pictures (B, 3, 64, 64) into vectors (B, WIDTH)."""
    widths = (3, 32, 64, 128, 192)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
    side = PIXELS // 2 ** (len(widths) - 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side**2, WIDTH))


def build_vae() -> AutoencoderKL:
    """The autoencoder: pictures (B, 3, 64, 64) become latents (B, 4, 16, 16)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=PIXELS,
    )


def build_unet() -> UNet2DConditionModel:
    """Stable Diffusion's UNet with one layer in each block. It has attention at 16, 8 and 4 cells a side, and at 2 in
    the middle block."""
    return UNet2DConditionModel(
        sample_size=PIXELS // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,  # the number of heads; diffusers keeps the wrong name for the sake of old models
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def build_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
