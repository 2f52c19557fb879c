"""Stable Diffusion XL's architecture: two text encoders side by side, and a pooled vector of the whole text.

It shows that another backbone fits the same segmenter. It is tried on tiny random weights; no loader for the real ones
stands here yet.
"""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding, EncodedText, Observation, Request
from attrbind_exp.backbones.reading import DIFFSEGMENTER, Reading
from attrbind_exp.backbones.stable_diffusion import StableDiffusion
from attrbind_exp.backbones.tensors import pad_rows, to_device
from attrbind_exp.backbones.text_encoder import TEXTS_TOGETHER
from attrbind_exp.backbones.window import ClipWindow
from attrbind_exp.language.window import Text, TextRequest, Tokens
from attrbind_exp.memory import in_parts
from attrbind_exp.types import UserError


class StableDiffusionXL(StableDiffusion):
    """A Stable Diffusion XL as a Backbone.

    An embedding's D channels are those of both encoders one after the other, so both share the positions of the text
    window; their tokenizers cut words alike and differ in padding only. No latent steps: the papers have none on it.
    """

    gradient = None  # type: ignore[assignment]

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        size: tuple[int, int] | None = None,
        reading: Reading = DIFFSEGMENTER,
    ):
        super().__init__(pipeline, size, reading)
        self.second_window = ClipWindow(pipeline.tokenizer_2)
        self.second_encoder = pipeline.text_encoder_2.eval().requires_grad_(False)
        # (height, width) of the original, (top, left) of the crop, (height, width) aimed at: as for a whole picture.
        self.time_ids = torch.tensor([*self.size, 0, 0, *self.size], device=self.device, dtype=self.dtype)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[Text]) -> list[EncodedText]:
        """Every text: the last hidden states but one of both encoders, side by side (L, D), and the second's projection
        of the whole text (P,). Raises UserError for a request: its two encoders know the plain way alone."""
        plain = [text for text in texts if not isinstance(text, TextRequest)]
        if len(plain) < len(texts):
            raise UserError("an edit asks for a hidden state, or hides words; Stable Diffusion XL has neither here")
        both = list(zip(self.window(plain), self.second_window(plain), strict=True))
        found, self.text_batch = in_parts(self._encode_pairs, both, self.text_batch, TEXTS_TOGETHER)
        return found

    def _encode_pairs(self, tokens: Sequence[tuple[Tokens, Tokens]], size: int) -> list[EncodedText]:
        ids = [to_device(torch.tensor([t.ids for t in part]), self.device) for part in zip(*tokens, strict=True)]
        first = self.text_encoder(pad_rows(ids[0], size), output_hidden_states=True)
        other = self.second_encoder(pad_rows(ids[1], size), output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], other.hidden_states[-2]], -1)  # (B, L, D)
        return [EncodedText(t, *parts) for (t, _), *parts in zip(tokens, states, other.text_embeds)]

    def observe(
        self,
        noisy: Tensor,
        timestep: int,
        embedding: Embedding,
        request: Request,
        pools: Tensor | None = None,
        same_image: Sequence[int] | None = None,
        reads: Sequence[Tensor] = (),
    ) -> Observation:
        """One conditional UNet pass. The pooled text reaches every layer, so rows of one image share nothing."""
        return super().observe(noisy, timestep, embedding, request, pools, None, reads)

    def denoise(self, noisy: Tensor, timestep: int, embedding: Embedding) -> Tensor:
        """The predicted noise (B, c, h, w) of noisy latents (B, c, h, w)."""
        assert embedding.pooled is not None
        steps = torch.full((len(noisy),), timestep, device=noisy.device)
        added = {
            "text_embeds": embedding.pooled.to(self.device, self.dtype),
            "time_ids": self.time_ids.expand(len(noisy), -1),
        }
        keys = embedding.keys.to(self.device, self.dtype)
        return self.unet(noisy, steps, keys, added_cond_kwargs=added, return_dict=False)[0]
