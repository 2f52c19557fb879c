"""python -m attrbind_exp.pretrain: make the bundled model and benchmark again (settings: conf/pretrain.yaml)."""

from collections.abc import Callable
from pathlib import Path

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import command_line, config
from attrbind_exp.diffusion.model import pick_device
from attrbind_exp.pretrain import stages
from attrbind_exp.pretrain.benchmark import write_benchmark
from attrbind_exp.pretrain.loop import Plan, default_precision
from attrbind_exp.types import UserError

STAGES = ("vae", "unet", "export", "benchmark")


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="pretrain")
@command_line.task
def main(cfg: DictConfig) -> None:
    """Run one stage, or vae, unet and export in turn."""
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
    device = pick_device(cfg.device)
    precision = default_precision(device) if cfg.precision == "auto" else cfg.precision

    def plan(name: str) -> Plan:
        s = cfg[name]
        return Plan(name, s.steps, s.batch, s.lr, cfg.seed, ema=s.ema, precision=precision)

    def log(name: str) -> Callable[[int, float], None]:
        return lambda step, loss: tracker.log({f"{name}/step": step, f"{name}/loss": loss})

    try:
        if cfg.stage in ("vae", "all"):
            print(f"vae: loss {stages.train_vae(plan('vae'), cfg.scenes, device, folder, log('vae')):.4f}")
        if cfg.stage in ("unet", "all"):
            u = cfg.unet
            last = stages.train_unet(plan("unet"), cfg.scenes, u.empty, u.object_weight, device, folder, log("unet"))
            print(f"unet: loss {last:.4f}")
        if cfg.stage in ("export", "all"):
            size = stages.export("unet", cfg.seed, folder, out)
            samples = stages.draw_samples(out, folder / "samples.png", cfg.seed)
            tracker.images("samples", {"16 prompts": samples})
            print(f"{size / 1e6:.1f} MB of weights; generations in {samples}")
            print(out)
    finally:
        tracker.close()


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    command_line.run_main(main)
