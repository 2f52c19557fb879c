"""A training loop that can be killed at any moment and goes on from its last checkpoint.

The batch of step k depends on (seed, k) alone, so a training that was killed ends with the same weights.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attrbind_exp.work import Work

Log = Callable[[int, float], None]  # gives a step and its loss to the tracker
Batch = Sequence[Tensor]  # each has the batch's rows first


@dataclass(frozen=True)
class Plan:
    """How one stage is trained.

    `warmup`: steps; `cooldown`: share of the steps (see `rate`); `ema`: decay of the averaged weights; `precision`:
    "fp32" or "bf16" (autocast); `workers`: threads that share a batch (see `differentiate`); `checkpoint_every`: steps.
    """

    name: str
    steps: int
    batch: int
    lr: float
    seed: int
    warmup: int = 200
    ema: float = 0.999
    weight_decay: float = 0.01
    precision: str = "fp32"
    workers: int = 1
    cooldown: float = 0.3
    checkpoint_every: int = 250

    def rate(self, step: int) -> float:
        """The learning rate of a step: it rises linearly, stays level, and falls linearly to 0 in the cooldown.

        Before the cooldown it does not depend on how many steps there will be. So a training that turns out too short
        can go on with more steps, as if they had been planned.
        """
        return self.lr * min(1.0, (step + 1) / self.warmup, (self.steps - step) / (self.cooldown * self.steps))


def default_precision(device: torch.device) -> str:
    """ "bf16" on CUDA and on CPUs with matrix tiles (AMX), else "fp32".

    On a CPU with AVX-512 alone bf16 was slower than fp32: 31 pictures a second on one core against 43.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def train(
    module: nn.Module,
    sample: Callable[[int], Batch],
    loss: Callable[..., Tensor],
    plan: Plan,
    folder: Path,
    log: Log,
) -> float:
    """Train `module` and leave its averaged weights in it. Returns the mean loss of the last 200 steps.

    The loss of a step is loss(*sample(step)). Checkpoints go to `folder`/<plan.name>.safetensors, and a training that
    is started again goes on from there.
    """
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, betas=(0.9, 0.99), fused=True
    )
    average = {name: p.detach().clone() for name, p in module.named_parameters()}
    file = folder / f"{plan.name}.safetensors"
    first, recent = _restore(file, module, average, optimizer) if file.exists() else (0, [])
    module.train()
    with Work(plan.name, plan.steps, "steps") as work:
        work.advance(first, fresh=False)
        for step in range(first, plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
            optimizer.zero_grad(set_to_none=True)
            value = differentiate(module, sample(step), loss, plan)
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            decay = min(plan.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.values()), [p.detach() for p in module.parameters()], 1 - decay)
            recent = [*recent[-199:], value]
            if step % 50 == 49:
                mean = sum(recent[-50:]) / 50
                work.extra = f"loss {mean:.4f}"
                log(step + 1, mean)
            if step % plan.checkpoint_every == plan.checkpoint_every - 1 or step == plan.steps - 1:
                _save(file, module, average, optimizer, step + 1, recent)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(average[name])
    module.eval()
    return sum(recent) / max(1, len(recent))


def differentiate(module: nn.Module, batch: Batch, loss: Callable[..., Tensor], plan: Plan) -> float:
    """The loss of a batch. Its gradient is left in the parameters.

    Each of `plan.workers` threads takes an equal part of the rows, and losses and gradients are averaged. On a CPU this
    is faster than several threads inside each small operation, which wait for each other a thousand times.
    """
    parameters = list(module.parameters())
    device = parameters[0].device.type

    def part(rows: Batch) -> tuple[float, Sequence[Tensor]]:
        with torch.autocast(device, torch.bfloat16, enabled=plan.precision == "bf16"):
            value = loss(*rows)
        return value.item(), torch.autograd.grad(value, parameters)

    if plan.workers == 1:
        found = [part(batch)]
    else:
        parts = zip(*(tensor.chunk(plan.workers) for tensor in batch), strict=True)
        with ThreadPoolExecutor(plan.workers) as pool:
            found = list(pool.map(part, parts))
    for p, *gradients in zip(parameters, *(g for _, g in found), strict=True):
        p.grad = torch.stack(gradients).mean(0) if len(gradients) > 1 else gradients[0]
    return sum(value for value, _ in found) / len(found)


def _save(
    file: Path,
    module: nn.Module,
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    recent: Sequence[float],
) -> None:
    """Write a checkpoint: weights, averaged weights and the optimizer's state after `step` steps, and recent losses."""
    tensors: dict[str, Tensor] = {}
    for name, p in module.named_parameters():
        state = optimizer.state[p]
        tensors |= {f"model.{name}": p.detach(), f"ema.{name}": average[name]}
        tensors |= {f"first.{name}": state["exp_avg"], f"second.{name}": state["exp_avg_sq"]}
    scratch = file.with_suffix(".partial")
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, scratch, {"step": str(step), "recent": json.dumps(recent)}
    )
    os.replace(scratch, file)


def _restore(
    file: Path, module: nn.Module, average: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, list[float]]:
    """Put a checkpoint into module, averaged weights and optimizer. Returns the steps done and the recent losses."""
    with safe_open(file, "pt") as stored, torch.no_grad():
        step = int(stored.metadata()["step"])
        for name, p in module.named_parameters():
            p.copy_(stored.get_tensor(f"model.{name}"))
            average[name].copy_(stored.get_tensor(f"ema.{name}"))
            optimizer.state[p] = {
                "step": torch.tensor(float(step)),
                "exp_avg": stored.get_tensor(f"first.{name}").to(p.device),
                "exp_avg_sq": stored.get_tensor(f"second.{name}").to(p.device),
            }
        return step, json.loads(stored.metadata()["recent"])


def load_average(file: Path, module: nn.Module) -> dict[str, str]:
    """Put a checkpoint's averaged weights into `module`. Returns the checkpoint's metadata."""
    with safe_open(file, "pt") as stored, torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(stored.get_tensor(f"ema.{name}"))
        return stored.metadata()
