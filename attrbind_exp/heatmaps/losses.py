"""How well a picture's texts explain it beside each other: the model's denoising losses.

P pictures, M prompts, B rows of a pass, T timesteps.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Backbone, Embedding, MeasuresLoss
from attrbind_exp.backbones.tensors import pad_rows, to_device
from attrbind_exp.memory import in_parts
from attrbind_exp.types import Prompt, UserError

TINY = 1e-10  # as ELBO-T2IAlign has it: losses that are all alike become zeros

Relative = Mapping[str, float]  # a prompt's relative loss by the name of the heat-map method that asks for it
Pair = tuple[int, str]  # the number of a picture, and a text


class LossMeter:
    """Compares the texts of pictures for the heat-map methods that ask for it.

    `timesteps`: of each such method, by its name; `draws`: of noise at each. Raises UserError for a model that cannot
    tell, and for timesteps that it does not have.
    """

    def __init__(self, backbone: Backbone, timesteps: Mapping[str, Sequence[int]], draws: int):
        self.backbone, self.timesteps, self.draws = cast(MeasuresLoss, backbone), timesteps, draws
        last = backbone.timesteps - 1
        for name, steps in timesteps.items():
            if not hasattr(backbone, "denoising_loss"):
                raise UserError(
                    f"heatmap={name} compares denoising losses, and this model's backbone has no denoising_loss; give "
                    "it one (attrbind_exp.backbones.backbone.MeasuresLoss), or choose another heatmap"
                )
            if not steps or not all(0 <= t <= last for t in steps):
                raise UserError(f"heatmap.{name}.loss_timesteps={list(steps)}; give one or more between 0 and {last}")

    def __call__(
        self,
        latents: Tensor,
        image_ids: Sequence[str],
        prompts: Sequence[Prompt],
        images: Sequence[int],
        seed: int,
        batch_size: int,
    ) -> list[Relative]:
        """The relative losses of M prompts, the i-th on the images[i]-th of P latents (P, c, h, w).

        1. The texts of a picture are each other's rivals; equal ones are one, and one that has no rival gets nothing.
        2. Each text's loss is summed over timesteps, of the plain prompt: edits play no part.
        3. The losses of a picture are stretched: 0 explains it best, 1 worst.

        The noise is that of `add_noise`, keyed by `seed` and the same for all texts of a picture. Every pass has
        `batch_size` rows, so that a loss depends on no other picture.
        """
        rivals: dict[int, list[str]] = {}
        for text, image in dict.fromkeys((prompt.text, image) for prompt, image in zip(prompts, images, strict=True)):
            rivals.setdefault(image, []).append(text)
        rivals = {image: texts for image, texts in rivals.items() if self.timesteps and len(texts) > 1}
        losses = self._measure(latents, image_ids, rivals, seed, batch_size)
        found: dict[Pair, dict[str, float]] = {}
        for image, texts in rivals.items():
            for name in self.timesteps:
                values = relative_losses([losses[image, text][name] for text in texts])
                for text, value in zip(texts, values, strict=True):
                    found.setdefault((image, text), {})[name] = value
        return [found.get((image, prompt.text), {}) for prompt, image in zip(prompts, images, strict=True)]

    def of_rows(self, relative: Sequence[Relative], rows: int) -> dict[str, Tensor]:
        """The relative losses (B,) of a pass's rows for each method, the last repeated; 0 for a text without rival."""
        dtype = torch.promote_types(self.backbone.dtype, torch.float32)
        values = {name: torch.tensor([own.get(name, 0.0) for own in relative], dtype=dtype) for name in self.timesteps}
        return {name: to_device(pad_rows(found, rows), self.backbone.device) for name, found in values.items()}

    @torch.no_grad()
    def _measure(
        self,
        latents: Tensor,
        image_ids: Sequence[str],
        rivals: Mapping[int, Sequence[str]],
        seed: int,
        batch_size: int,
    ) -> dict[Pair, dict[str, float]]:
        """The loss of every text on its picture, summed over the timesteps of each method."""
        pairs = [(image, text) for image, texts in rivals.items() for text in texts]
        if not pairs:
            return {}
        distinct = list(dict.fromkeys(text for _, text in pairs))
        encoded = dict(zip(distinct, self.backbone.encode_text(distinct), strict=True))
        steps = list(dict.fromkeys(t for own in self.timesteps.values() for t in own))

        def measure(part: Sequence[Pair], size: int) -> list[dict[str, float]]:
            rows = [*part, *[part[-1]] * (size - len(part))]
            embedding = Embedding.stack([Embedding(encoded[t].states, None, encoded[t].pooled) for _, t in rows])
            ids, owner = [image_ids[i] for i, _ in rows], torch.tensor([i for i, _ in rows])
            own = latents[to_device(owner, latents.device)]
            each = [
                self.backbone.denoising_loss(own, ids, timestep, draw, seed, embedding)
                for timestep in steps
                for draw in range(self.draws)
            ]
            means = torch.stack(each).unflatten(0, (len(steps), self.draws)).mean(1)  # (T, B)
            by_step = dict(zip(steps, means.tolist(), strict=True))
            return [
                {name: sum(by_step[t][i] for t in o) for name, o in self.timesteps.items()} for i in range(len(part))
            ]

        made, _ = in_parts(measure, pairs, batch_size, "batch_size")
        return dict(zip(pairs, made, strict=True))


def relative_losses(losses: Sequence[float]) -> list[float]:
    """(loss - min) / (max - min + 1e-10) of each: 0 the smallest, 1 the largest; zeros where all are alike."""
    low, high = min(losses), max(losses)
    return [(loss - low) / (high - low + TINY) for loss in losses]
