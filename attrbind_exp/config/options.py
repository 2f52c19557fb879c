"""Whether the options of a user's own folder have the form of their group, which Hydra does not look at."""

import re

from omegaconf import DictConfig

from attrbind_exp.paths import own_folder
from attrbind_exp.types import UserError

TARGET = "_target_"
AT_TOP = re.compile(r"^_target_\s*:", re.MULTILINE)
NAMED = ("heatmap", "metric")  # several of these stand beside each other in a run, so each has a name
NAMELESS = ("dataset", "captioner", "tracker", "refine", "latent_steps")


def check_options(cfg: DictConfig) -> None:
    """Raise UserError for the first group whose option has no name where it needs one, or has one where none belongs;
    the error says what its file must be."""
    for group in NAMED:
        for name, node in (cfg.get(group) or {}).items():
            if not _has_target(node):
                form = f"NAME: and below it, indented, {TARGET}: FILE.CLASS and its fields"
                what = f"{group}.{name} has no {TARGET}" if name != TARGET else f"{group} has {TARGET} without a name"
                raise UserError(f"{what}; {_files(group, True)} must be {form}")
    for group in NAMELESS:
        node = cfg.get(group)
        if isinstance(node, DictConfig) and not _has_target(node) and any(_has_target(node[name]) for name in node):
            form = f"{TARGET}: FILE.CLASS and its fields, without a name before them"
            raise UserError(f"{group} has no {TARGET} at its top; {_files(group, False)} must be {form}")


def _has_target(node: object) -> bool:
    return isinstance(node, DictConfig) and TARGET in node


def _files(group: str, at_top: bool) -> str:
    """The user's own options of a group that have _target_ at their top, or that do not."""
    own = own_folder()
    files = sorted((own / group).glob("*.yaml")) if own else []
    found = [file for file in files if bool(AT_TOP.search(file.read_text(encoding="utf-8"))) is at_top]
    return " and ".join(f"'{file}'" for file in found) or f"an option of {group}"
