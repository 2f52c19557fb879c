"""Gradients at the price of little more memory than a pass: what reads no text is made anew on the way back."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from diffusers import UNet2DConditionModel
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputing(unet: UNet2DConditionModel) -> Iterator[None]:
    """Within the block, residual blocks, feed-forwards and self-attention keep their inputs alone for the way back.

    Cross-attention is left as it is: its maps are noted as it runs, which must happen once. diffusers' own
    checkpointing would repeat whole transformer blocks, maps and all.
    """
    touched = [module for module in unet.modules() if reads_no_text(module)]
    try:
        for module in touched:
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
        yield
    finally:
        for module in touched:
            vars(module).pop("forward", None)  # the class's own again


def reads_no_text(module: nn.Module) -> bool:
    """Whether a module is a residual block, a feed-forward or self-attention."""
    return isinstance(module, ResnetBlock2D | FeedForward) or (
        isinstance(module, Attention) and not module.is_cross_attention
    )
