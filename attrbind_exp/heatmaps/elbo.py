"""ELBO-T2IAlign's reading: the maps of a picture's texts, each as sharp as the text explains the picture badly."""

from dataclasses import dataclass

from torch import Tensor

from attrbind_exp.backbones.backbone import Observation
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.types import UserError


@dataclass(frozen=True)
class Elbo(DiffSegmenter):
    """M = S @ sum over resolutions of w * minmax(mean over heads and layers) ^ (s ^ e).

    e = (L - min L) / (max L - min L), with minimum and maximum over the distinct texts of the picture. L is the text's
    denoising loss, which bounds how likely it makes the picture: the sum over timesteps t of
    mean((noise - predicted noise)^2) under the plain prompt. So the text that explains its picture best keeps its map,
    and the worst one's is raised to the power s. A text without a rival has e = 0, as have all whose losses are equal:
    M is DiffSegmenter's then, to the last bit. Source: "ELBO-T2IAlign" (Zhou et al., 2025) and its published script:
    s = 3, t = 1, 51, .., 951.

    Departures. All but the power is DiffSegmenter's, so that the difference to it is what the power does: the script
    sums the resolutions first, with other weights (for a resolution of 8, 4, 2 and 1 times coarser than the latents 15,
    50, 5 and 5 of 75), raises the sum, and multiplies twice by self-attention, at ten timesteps of one prompt that
    names all classes. A choice of layers sums maps afterwards here, so each is raised by itself. Rivals are the other
    expressions of the picture, where the script has its classes. The empty prompt's map, which is to know nothing of
    the text, is not raised.
    """

    strength: float = 3.0
    loss_timesteps: tuple[int, ...] = tuple(range(1, 999, 50))

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.strength, bool) or not isinstance(self.strength, int | float) or not self.strength > 0:
            raise UserError(f"strength={self.strength!r} of a heatmap; give a number above 0")
        object.__setattr__(self, "loss_timesteps", tuple(self.loss_timesteps))  # a list from YAML

    def complete(self, maps: Tensor, seen: Observation) -> Tensor:
        """S @ minmax(c) ^ (s ^ e) of every column c; e is that of the map's row."""
        assert seen.relative_loss is not None
        power = self.strength ** seen.relative_loss.to(maps.dtype)  # (B,)
        return super().complete(score_map.min_max(maps) ** power[:, None, None, None], seen)
