"""A backbone whose latents and text embeddings are kept on disk, by content."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.backbone import Backbone, EncodedText, Pixels
from attrbind_exp.backbones.tensors import to_device, to_host
from attrbind_exp.cache import Cache, digest
from attrbind_exp.language.window import Tokens


class CachedBackbone:
    """Another backbone with a cache around it: what was encoded before, by whichever run, is read from disk.

    Keys hold the weights, the precision, the kind of device and the content. All else is the backbone's own.
    """

    def __init__(self, backbone: Backbone, cache: Cache):
        self.backbone, self.cache = backbone, cache
        text, image = backbone.digests()
        self._text, self._image = ((part, backbone.dtype, backbone.device.type) for part in (text, image))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def encode_text(self, texts: Sequence[str]) -> list[EncodedText]:
        """Every text as the model's encoders give it."""
        tokens = self.backbone.window(texts)
        keys = [digest(*self._text, torch.tensor(t.ids)) for t in tokens]
        found = {i: kept for i, key in enumerate(keys) if (kept := self._read(key, tokens[i])) is not None}
        missing = [i for i in range(len(texts)) if i not in found]
        made = self.backbone.encode_text([texts[i] for i in missing]) if missing else []
        for i, encoded in zip(missing, made, strict=True):
            found[i] = encoded
            self.cache.put_tensor("texts", keys[i], to_host(encoded.states))
            if encoded.pooled is not None:
                self.cache.put_tensor("pooled", keys[i], to_host(encoded.pooled))
        return [found[i] for i in range(len(texts))]

    def _read(self, key: str, tokens: Tokens) -> EncodedText | None:
        states = self.cache.get_tensor("texts", key)
        if states is None:
            return None
        device = self.backbone.device
        if not self.backbone.pooled_width:
            return EncodedText(tokens, to_device(states, device))
        pooled = self.cache.get_tensor("pooled", key)
        return None if pooled is None else EncodedText(tokens, to_device(states, device), to_device(pooled, device))

    def pixels(self, image: Image.Image) -> Pixels:
        """What the model sees of an RGB image, with its latents where they are known. Safe in a thread."""
        values = self.backbone.pixels(image).values
        key = digest(*self._image, values)
        return Pixels(values, key, self.cache.get_tensor("latents", key))

    def encode_pixels(self, pixels: Pixels) -> Tensor:
        """Scaled latents (c, h, w) of one picture; known ones are not made again."""
        if pixels.latents is not None:
            return to_device(pixels.latents, self.backbone.device)
        latents = self.backbone.encode_pixels(pixels)
        self.cache.put_tensor("latents", pixels.key, to_host(latents))
        return latents
