"""Door 2: what a segmenter needs of a frozen text-to-image model, and what one pass is asked for and gives back.

Letters: B rows of a pass, L positions of the text window, D width of an embedding, K poolings of a row, R further texts
that are read on it, n cells of a layer (in row order), N cells of a self-attention layer, d width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.reading import Reading
from attrbind_exp.language.window import Text, TextWindow, Tokens


@dataclass(frozen=True)
class Layer:
    """One attention layer. `name`: as the model calls it; `block`: down, mid or up; `ratio`: how many times coarser
    than the latents it works (Stable Diffusion 1.x at 512 px: 1, 2, 4, 8 are 64, 32, 16, 8 cells a side); `cross`:
    whether it attends to the text."""

    name: str
    block: str
    ratio: int
    cross: bool


@dataclass(frozen=True)
class EncodedText:
    """One text as the model's text encoders give it: `states` (L, D), `pooled` (P,) where the model also takes one
    vector of the whole text, and where its characters lie (`tokens`)."""

    tokens: Tokens
    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class Embedding:
    """What a pass is conditioned on: `keys` (L, D), or (B, L, D) of a batch, from which cross-attention makes its keys;
    `values` of the same shape for its values, None where they are the keys; `pooled` (P,) or (B, P) as in
    EncodedText. `read` (L, D): the text whose attention is read there, None where it is the keys. `blind`: the keys are
    the same for every prompt, and hold no word of one."""

    keys: Tensor
    values: Tensor | None = None
    pooled: Tensor | None = None
    read: Tensor | None = None
    blind: bool = False

    def shares_pass(self, other: "Embedding") -> bool:
        """Whether one pass serves both: they are conditioned on the very same tensors, whatever is read."""
        return self.keys is other.keys and self.values is other.values and self.pooled is other.pooled

    @staticmethod
    def stack(rows: "Sequence[Embedding]") -> "Embedding":
        """What a batch is conditioned on: B embeddings as one of (B, ...) tensors."""
        split = any(row.values is not None for row in rows)
        values = [row.keys if row.values is None else row.values for row in rows]
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return Embedding(
            torch.stack([row.keys for row in rows]),
            torch.stack(values) if split else None,
            torch.stack(pooled) if pooled else None,
        )


@dataclass(frozen=True)
class Request:
    """What a pass is asked to leave behind; a pass goes no further than the last layer that is asked for anything.

    `cross`: layers whose probabilities are pooled over text positions; `by_head`: keep their heads apart;
    `queries_keys`: self-attention layers whose queries and keys are kept; `inputs`: cross-attention layers whose image
    states are kept as they come in (from these the map of any other text can be read); `outputs`: attention layers
    whose result is kept; `noise`: the predicted noise, for which the pass goes to its end.

    What else a method may need of a model are passes of their own: further timesteps or texts, or how well a text
    explains its picture (MeasuresLoss). A caller that needs gradients makes the pass outside of torch.no_grad.
    """

    cross: tuple[Layer, ...] = ()
    by_head: bool = False
    queries_keys: tuple[Layer, ...] = ()
    inputs: tuple[Layer, ...] = ()
    outputs: tuple[Layer, ...] = ()
    noise: bool = False

    def __or__(self, other: "Request") -> "Request":
        """What serves both."""

        def union(mine: tuple[Layer, ...], theirs: tuple[Layer, ...]) -> tuple[Layer, ...]:
            return tuple(dict.fromkeys([*mine, *theirs]))

        return Request(
            union(self.cross, other.cross),
            self.by_head or other.by_head,
            union(self.queries_keys, other.queries_keys),
            union(self.inputs, other.inputs),
            union(self.outputs, other.outputs),
            self.noise or other.noise,
        )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer that is asked for something, once."""
        return tuple(dict.fromkeys([*self.cross, *self.queries_keys, *self.inputs, *self.outputs]))


@dataclass(frozen=True)
class SelfAttention:
    """Queries and keys of a self-attention layer, (b, heads, N, d) each, and the `scale` of their product. They belong
    to the `rows` of the batch one by one; b = 1 serves all of them. `log_sums` (b, heads, N), where the pass kept them:
    the logarithm of what each query's softmax divides by."""

    layer: Layer
    query: Tensor
    key: Tensor
    scale: float
    rows: Sequence[int]
    log_sums: Tensor | None = None


@dataclass
class Observation:
    """What a pass has left behind, by the fields of its Request.

    `cross`: probabilities pooled over text positions, (B, (1 + R) K, heads, n) of each layer, heads = 1 where they were
    meaned: the K of the keys, then those of each further text, zeros in rows that have fewer than R;
    `self_attention`: one entry a layer and, where images share what no text has touched, an image; `inputs`, `outputs`:
    (B, n, channels) of each layer; `noise`: (B, c, h, w). `relative_loss`: (B,) of a method that asks for losses, how
    much worse than its best rival each row's text explains the picture, from 0 to 1 (see heatmaps.losses).
    """

    cross: dict[Layer, Tensor] = field(default_factory=dict)
    self_attention: list[SelfAttention] = field(default_factory=list)
    inputs: dict[Layer, Tensor] = field(default_factory=dict)
    outputs: dict[Layer, Tensor] = field(default_factory=dict)
    noise: Tensor | None = None
    relative_loss: Tensor | None = None


@dataclass(frozen=True)
class Pixels:
    """A picture at the model's size: `values` (3, H, W) uint8; `key` and `latents` (c, h, w) where these are kept in a
    cache and known."""

    values: Tensor
    key: str = ""
    latents: Tensor | None = None


class Backbone(Protocol):
    """A frozen text-to-image model, ready to be asked for attention.

    `layers`: every attention layer that can be read; `window`: its text window; `reading`: the timestep and the weights
    that suit it; `timesteps`: how many there are; `latent_shape`: (c, h, w) of a picture; `device` and `dtype`
    of passes.
    """

    layers: Sequence[Layer]
    window: TextWindow
    reading: Reading
    timesteps: int
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype

    def image_encoder_digest(self) -> str:
        """What tells its image encoder from another one: a digest of all that latents depend on beside the pixels."""
        ...

    def encode_text(self, texts: Sequence[Text]) -> list[EncodedText]:
        """Every text as the model's encoders give it, or as its request says. Raises UserError for a request that it
        cannot meet."""
        ...

    def pixels(self, image: Image.Image) -> Pixels:
        """What the model sees of an RGB image. Touches no device: safe in a thread."""
        ...

    def encode_pixels(self, pixels: Pixels) -> Tensor:
        """Scaled latents (c, h, w) of one picture."""
        ...

    def add_noise(self, latents: Tensor, image_ids: Sequence[str], timestep: int, draw: int, seed: int) -> Tensor:
        """Latents (P, c, h, w) at `timestep`. The noise depends on (seed, image id, timestep, draw) and nothing
        else."""
        ...

    def compile(self) -> None:
        """Fuse what reads no attention into kernels for one batch size."""
        ...

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
        """ONE conditional pass of B rows, `noisy` (B, c, h, w) under an embedding of (B, ...) tensors.

        `pools` (B, K, L): each row's weights over text positions, for `request.cross`. `same_image[i]` is the first row
        with the same noisy latents as row i, None = all differ: what no text has touched need not be computed twice.
        `reads[i]` (R_i, L, D): texts whose attention is read on row i besides that of its keys, with the same pooling;
        none of them changes the pass. It is given only where there are any.
        """
        ...


class MeasuresLoss(Backbone, Protocol):
    """A Backbone that can also say how well a text explains a picture. Only heat-map methods with `loss_timesteps` need
    that."""

    def denoising_loss(
        self, latents: Tensor, image_ids: Sequence[str], timestep: int, draw: int, seed: int, embedding: Embedding
    ) -> Tensor:
        """Mean squared error (B,), float32 at least, between the noise that `add_noise` draws for each row of `latents`
        (B, c, h, w) and what ONE conditional pass under an embedding of (B, ...) tensors takes for it."""
        ...


class DifferentiableBackbone(Backbone, Protocol):
    """A backbone whose attention gives gradients by the noisy latents; latent_steps needs one."""

    def gradient(
        self,
        noisy: Tensor,
        timestep: int,
        embedding: Embedding,
        request: Request,
        pools: Tensor,
        loss: Callable[[Observation], Tensor],
    ) -> Tensor:
        """The gradient of a loss () by B rows of noisy latents (B, c, h, w), float32 at least and of their shape.

        `loss` is made of what a pass of these rows leaves behind, as in `observe`; where it is a sum over rows, each
        row's gradient is that of its own part.
        """
        ...


def encode_images(backbone: Backbone, images: Sequence[Image.Image]) -> Tensor:
    """Scaled latents (B, c, h, w) of RGB images of any size.

    In half precision a picture's row may hold what is not finite: ask `tensors.overflowed`.
    """
    return torch.stack([backbone.encode_pixels(backbone.pixels(image)) for image in images])
