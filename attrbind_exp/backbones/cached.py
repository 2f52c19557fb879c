"""A backbone whose latents are kept on disk, by content.

Text embeddings are not kept, though a CPU reads them faster than it computes them (two busy cores, ms a text: bundled
model 0.24 and 1.5, Stable Diffusion 1.5's architecture in fp32 0.75 and 184). The latter is 1 % of the pass that it
feeds. Its entry holds 237 kB, so RefCOCO's expressions alone would fill the cache and push out the latents: 66 kB each,
26 s to compute. And a run that finds nothing would pay for keys, writing and a second tokenization.
"""

from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.backbone import Backbone, Pixels
from attrbind_exp.backbones.tensors import to_device, to_host
from attrbind_exp.cache import Cache, digest


class CachedBackbone:
    """Another backbone with a cache around it: latents that were computed before, by whichever run, are read from disk.

    Keys hold the image encoder, the precision, what computes and with which libraries, and the pixels: an entry is what
    would come out here, to the last bit. All else is the backbone's own.
    """

    def __init__(self, backbone: Backbone, cache: Cache):
        self.backbone, self.cache = backbone, cache
        self._encoder = digest(backbone.image_encoder_digest(), backbone.dtype, *computed_by(backbone.device))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def pixels(self, image: Image.Image) -> Pixels:
        """What the model sees of an RGB image, with its latents where they are known. Safe in a thread."""
        values = self.backbone.pixels(image).values
        key = digest(self._encoder, values)
        return Pixels(values, key, self.cache.get_tensor("latents", key))

    def encode_pixels(self, pixels: Pixels) -> Tensor:
        """Scaled latents (c, h, w) of one picture; known ones are not made again."""
        if pixels.latents is not None:
            return to_device(pixels.latents, self.backbone.device)
        latents = self.backbone.encode_pixels(pixels)
        self.cache.put_tensor("latents", pixels.key, to_host(latents))
        return latents


def computed_by(device: torch.device) -> list[str | int]:
    """What an encoder's last bits depend on beside itself: the processor and, on a CPU, how many threads share the
    work; on CUDA how exactly fp32 is computed; the libraries."""
    if device.type == "cuda":
        fp32 = "TF32" if torch.backends.cudnn.allow_tf32 else "full fp32"
        processor: list[str | int] = [torch.cuda.get_device_name(device), fp32]
    else:
        processor = [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    return [device.type, *processor, torch.__version__, version("diffusers")]
