"""python -m attrbind_exp.demo: a page in the browser on which one can try pictures and expressions."""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.paths import PACKAGE
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    from attrbind_exp.demo.answers import Begin
    from attrbind_exp.demo.compute import Compared

OWN_KEYS = ("host", "port", "share", "open")  # of the page, not of what it shows
NO_GRADIO = "the page needs Gradio, which is not installed; pip install 'gradio>=6.31,<7'"
BUNDLED = (
    "A tiny Stable Diffusion that was trained on drawn shapes alone: circles, squares, triangles, stars, hearts, "
    "crosses, rings and moons in eight colours, above, below and beside each other. It knows no photo, no animal, no "
    "other word."
)
ON_OTHERS = (
    "This is none of the drawn pictures. The bundled model knows only shapes: its maps of anything else mean nothing."
)
OTHERS = (
    "Stable Diffusion knows what pictures with English captions on the web showed, with their gaps and prejudices. "
    "Left and right, counting and small things are its weak sides. A mask is where its attention lies, no proof of "
    "what is there."
)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="demo")
@command_line.task
def main(cfg: DictConfig) -> None:
    """Load the model, serve the page until it is stopped, print its address."""
    check_page(cfg)
    config.check(cfg)
    settings, (variants, headline) = config.segmenter_settings(cfg), config.variants(cfg)
    from attrbind_exp.commands.build import build_segmenter
    from attrbind_exp.demo import page
    from attrbind_exp.demo.answers import About
    from attrbind_exp.demo.compute import Compared

    model = settings.model
    compared = Compared(build_segmenter(settings), variants, model.batch_size)
    bundled = model.path == str(PACKAGE / "assets" / "bundled")
    typed = command_line.as_typed(HydraConfig.get().overrides.task)
    about = About(
        name=model.name,
        limits=BUNDLED if bundled else OTHERS,
        warning=ON_OTHERS if bundled else None,
        started_with=names_the_model(typed),
    )
    warm_up(compared)
    made = page.make_page(compared, about, first_choice(compared, headline, cfg.threshold.value))
    page.launch(made, cfg.host, cfg.port, cfg.share, cfg.open)


def warm_up(compared: "Compared") -> None:
    """Look at a drawn picture once: what loads with the first expression has loaded when the first visitor comes."""
    from attrbind_exp.demo.compute import open_limited, see
    from attrbind_exp.demo.examples import EXAMPLES

    see(compared, open_limited(str(EXAMPLES[0].path)), [EXAMPLES[0].expression])


def check_page(cfg: DictConfig) -> None:
    """Raises UserError where Gradio is missing, and for values of the page's own keys that make no sense."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError(NO_GRADIO)
    port = cfg.port
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535):
        raise UserError(f"port={port}; give a number from 1 to 65535, or null for the first free one from 7860 on")
    if cfg.threshold.value is None:
        raise UserError("threshold=null; give the number at which the page opens, such as threshold=0.5")
    for key in ("share", "open"):
        if not isinstance(cfg[key], bool):
            raise UserError(f"{key}={cfg[key]}; choose from true, false")


def names_the_model(typed: Sequence[str]) -> list[str]:
    """Of what was typed, that which the command segment takes too."""
    return [a for a in typed if a.partition("=")[0] not in OWN_KEYS]


def first_choice(compared: "Compared", headline: int, threshold: float) -> "Begin":
    """What is chosen when the page opens: the headline of the configuration, at its alpha."""
    found, head = compared.variants, compared.variants[headline]
    alphas = sorted({v.alpha for v in found if v.alpha is not None})
    return {
        "method": list(dict.fromkeys(v.method for v in found)).index(head.method),
        "reading": 0,
        "alpha": 0 if head.alpha is None else alphas.index(head.alpha),
        "threshold": round(100 * threshold),
    }


def start() -> None:
    """python -m attrbind_exp.demo"""
    command_line.run_main(main, "demo")
