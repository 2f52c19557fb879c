"""python -m attrbind_exp.pretrain: make the bundled model or benchmark again. Settings: conf/pretrain.yaml."""

from pathlib import Path

import hydra
import torch
from diffusers import AutoencoderKL
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.devices import pick_device
from attrbind_exp.pretrain import stages
from attrbind_exp.pretrain.benchmark import write_benchmark
from attrbind_exp.pretrain.clip import train_clip
from attrbind_exp.pretrain.loop import Plan, default_precision
from attrbind_exp.pretrain.pictures import kept_latents, kept_pictures
from attrbind_exp.pretrain.scenes import training_scene
from attrbind_exp.tracking.tracker import Tracker
from attrbind_exp.types import UserError

STAGES = ("clip", "vae", "unet", "export", "benchmark")


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="pretrain")
@command_line.task
def main(cfg: DictConfig) -> None:
    """Do one stage, or clip, vae, unet and export in turn.

    Raises UserError for a stage that there is not.
    """
    if cfg.stage not in (*STAGES, "all"):
        raise UserError(f"unknown stage '{cfg.stage}'; choose from {', '.join(STAGES)}, all")
    folder, out = Path(cfg.folder), Path(cfg.out)
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.stage == "benchmark":
        write_benchmark(out)
        print(out / "shapes")
        return
    resolved = OmegaConf.to_container(cfg, resolve=True)
    tracker = instantiate(cfg.tracker, _partial_=True)(folder=folder, run_config=resolved)
    try:
        train_stages(cfg, folder, tracker)
        if cfg.stage in ("export", "all"):
            size = stages.export(cfg.seed, folder, out)
            samples = stages.draw_samples(out, folder / "samples.png", cfg.seed)
            tracker.images("samples", {"16 prompts": samples})
            print(f"{size / 1e6:.1f} MB of weights; generations in {samples}")
            print(out)
    finally:
        tracker.close()


def train_stages(cfg: DictConfig, folder: Path, tracker: Tracker) -> None:
    """Train those of clip, vae and unet that cfg.stage asks for, and print the loss that each ends with."""
    wanted = [name for name in ("clip", "vae", "unet") if cfg.stage in (name, "all")]
    if not wanted:
        return
    device = pick_device(cfg.device, "device")
    precision = default_precision(device) if cfg.precision == "auto" else cfg.precision
    scenes = [training_scene(i) for i in range(cfg.scenes)]
    pictures = kept_pictures(scenes, folder)
    for name in wanted:
        s = cfg[name]
        plan = Plan(name, s.steps, s.batch, s.lr, cfg.seed, ema=s.ema, precision=precision, workers=s.get("workers", 1))

        def log(step: int, loss: float, name: str = name) -> None:
            tracker.log({f"{name}/step": step, f"{name}/loss": loss})

        facts: dict[str, float] = {}
        if name == "clip":
            last, facts = train_clip(plan, s.jumbled, scenes, pictures, device, folder, log)
        elif name == "vae":
            last = stages.train_vae(plan, pictures, device, folder, log)
        else:
            vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True).to(device).eval()
            batches = stages.UnetTraining(s.empty, s.words_only, s.object_weight, tuple(s.focus), s.focus_share)
            last = stages.train_unet(plan, batches, scenes, kept_latents(vae, pictures, folder), device, folder, log)
        findings = "".join(f"; {k}: {v:.1f} %" for k, v in facts.items())
        print(f"{name}: loss {last:.4f}{findings}")


def start() -> None:
    """python -m attrbind_exp.pretrain"""
    torch.set_float32_matmul_precision("high")
    command_line.run_main(main, "pretrain")
