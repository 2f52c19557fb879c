"""The group refine: what is done to heat maps before they are scored."""

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp.heatmaps.refinement import Refinement
from attrbind_exp.types import UserError


def read_refinement(cfg: DictConfig) -> Refinement | None:
    """The refinement of a configuration; None where it has none, or is older than the group."""
    node = OmegaConf.select(cfg, "refine")
    if node is None:
        return None
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"refine={node}; give an option of the group refine, and what belongs to it as refine.KEY=")
    found: Refinement = instantiate(node, _convert_="all")
    return found
