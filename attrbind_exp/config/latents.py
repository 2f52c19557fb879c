"""What a run does to its noisy latents before they are read: the group latent_steps."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from attrbind_exp.latent_steps.method import LatentSteps
from attrbind_exp.types import UserError


def latent_steps(cfg: DictConfig) -> LatentSteps | None:
    """The latent steps of a configuration; None where it has none, or zero of them."""
    node = cfg.get("latent_steps")  # a configuration may be older than the group
    if not node:
        return None
    found = instantiate(node, _convert_="all")
    if not isinstance(found, LatentSteps):
        raise UserError(f"latent_steps is {node}; choose an option of the group, such as latent_steps=syngen")
    return found if found.steps else None
