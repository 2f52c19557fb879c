"""Reading attention out of one UNet pass at the price of little more than the pass.

Layers are named as diffusers names them. Cross-attention layers give their probabilities pooled over text positions;
self-attention layers leave their queries and keys, from which `heatmaps.score_map.complete` works without any N x N
matrix. The pass ends with the last layer that is asked for anything.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from attrbind_exp.backbones.backbone import Layer, Observation, Request, SelfAttention
from attrbind_exp.backbones.tensors import at_least_float32, pad_rows, to_device

MULTIPLE = 8  # fused kernels take values whose width is a multiple of this
MANY_CELLS = 1024  # from so many on, sums of softmax are kept on a CPU


class _PassEnded(Exception):
    """Everything that was asked for is there."""


@dataclass(frozen=True)
class Part:
    """What goes through a module at once: `taken` of the batch, whose result belongs to `rows`, one by one or, where it
    is a single one, to all of them."""

    taken: slice
    rows: list[int]


@dataclass(frozen=True)
class FurtherTexts:
    """All texts that a pass of B rows reads besides its keys: `batches` of B texts (B, L, D) each with their rows (B,),
    the last one filled up; `counts`: how many texts each row has."""

    batches: list[tuple[Tensor, Tensor]]
    counts: list[int]

    @classmethod
    def gather(cls, reads: Sequence[Tensor]) -> "FurtherTexts":
        """From each row's texts (R_i, L, D)."""
        counts = [len(texts) for texts in reads]
        owners = torch.tensor([row for row, count in enumerate(counts) for _ in range(count)])
        size = len(counts)
        parts = zip(torch.cat(list(reads)).split(size), to_device(owners, reads[0].device).split(size), strict=True)
        return cls([(pad_rows(texts, size), pad_rows(rows, size)) for texts, rows in parts], counts)


def find_layers(unet: UNet2DConditionModel) -> list[Layer]:
    """All attention layers of a UNet, in the order of its processors."""
    deepest = len(unet.config.block_out_channels) - 1
    layers = []
    for name in unet.attn_processors:
        match = re.match(r"(down|mid|up)_blocks?\.(\d+)?", name)
        if match is None:
            continue
        block, index = match[1], int(match[2] or 0)
        level = {"down": index, "mid": deepest, "up": deepest - index}[block]
        layers.append(Layer(name, block, 2**level, ".attn2." in name))
    return layers


@contextmanager
def record(
    unet: UNet2DConditionModel,
    request: Request,
    rows: int,
    pools: Tensor | None = None,
    values: Tensor | None = None,
    same_image: Sequence[int] | None = None,
    reads: Sequence[Tensor] = (),
) -> Iterator[Observation]:
    """Within the block, one UNet pass of `rows` rows leaves in the Observation what `request` asks for.

    `pools` (B, K, L) are each row's weights over text positions. `values` (B, L, D), where cross-attention takes its
    values from another embedding than its keys. `same_image`, `reads`: as in Backbone.observe; same_image None = all
    rows differ, and the whole batch goes through together. The UNet is as before afterwards, whatever happens.
    """
    every = find_layers(unet) if values is not None else []
    touched = dict.fromkeys([*request.layers, *(x for x in every if x.cross)])
    # diffusers' own set_attn_processor walks all modules, 5 ms a pass.
    modules = {x: unet.get_submodule(x.name.removesuffix(".processor")) for x in touched}
    before = {layer: module.processor for layer, module in modules.items()}
    whole = [Part(slice(None), list(range(rows)))]
    further = FurtherTexts.gather(reads) if any(map(len, reads)) else None
    images = whole if same_image is None else _by_image(same_image)
    first = next(m for m in unet.modules() if isinstance(m, Attention))  # no text has touched what comes to it
    notes = _Notes(request, None if request.noise else set(request.layers))
    block = unet.down_blocks[0]
    resnet = block.resnets[0]
    try:
        if same_image is not None:
            block.resnets[0] = _ByImage(resnet, images)
        for layer, module in modules.items():
            reader = (
                _CrossReader(notes, layer, pools, values, further)
                if layer.cross
                else _SelfReader(notes, layer, images if module is first else whole)
            )
            module.set_processor(reader)
        yield notes.seen
    except _PassEnded:
        pass
    finally:
        block.resnets[0] = resnet
        for layer, module in modules.items():
            module.set_processor(before[layer])


class _Notes:
    """What was seen so far, and the layers that are still awaited; None = the pass goes to its end."""

    def __init__(self, request: Request, awaited: set[Layer] | None):
        self.request, self.awaited, self.seen = request, awaited, Observation()

    def note(self, layer: Layer, states: Tensor, result: Tensor) -> None:
        """A layer has been computed: keep its states and result if asked for. Ends the pass after the last layer."""
        if layer in self.request.inputs:
            self.seen.inputs[layer] = states
        if layer in self.request.outputs:
            self.seen.outputs[layer] = result
        if self.awaited is not None:
            self.awaited.discard(layer)
            if not self.awaited:
                raise _PassEnded

    def is_last(self, layer: Layer) -> bool:
        """Whether the pass ends here and nobody wants the layer's result."""
        return self.awaited == {layer} and layer not in self.request.outputs


def _by_image(same_image: Sequence[int]) -> list[Part]:
    """One part for every image: its first row, whose result belongs to all of its rows."""
    return [Part(slice(i, i + 1), [r for r, k in enumerate(same_image) if k == i]) for i in dict.fromkeys(same_image)]


def _assemble(results: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    """The parts' results (1 or len(rows), ...) as one batch in the order of its rows."""
    spread = [x.expand(len(part.rows), *x.shape[1:]) for x, part in zip(results, parts, strict=True)]
    if len(spread) == 1:
        return spread[0]
    order = [row for part in parts for row in part.rows]
    joined = torch.cat(spread)
    return joined if order == sorted(order) else joined[torch.tensor(order, device=joined.device).argsort()]


class _ByImage(nn.Module):
    """A module that sees no text: one row of each image goes through it, and alone, so that no row depends on what else
    is in the batch."""

    def __init__(self, module: nn.Module, images: Sequence[Part]):
        super().__init__()
        self.module, self.images = module, images

    def forward(self, states: Tensor, embedding: Tensor) -> Tensor:
        return _assemble([self.module(states[x.taken], embedding[x.taken]) for x in self.images], self.images)


def _heads(attn: Attention, states: Tensor) -> Tensor:
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, n, heads * d) -> (B, heads, n, d)


def _output(attn: Attention, states: Tensor) -> Tensor:
    merged = states.transpose(1, 2).flatten(2)  # (B, heads, n, d) -> (B, n, heads * d)
    return attn.to_out[1](attn.to_out[0](merged))


class _CrossReader:
    """Cross-attention by the fused kernel, with the pooling weights as more value columns: what comes out in them are
    the pooled probabilities, and no n x L matrix exists. Scores are fp32 inside, whatever the inputs are: all that
    `upcast_attention` asks for."""

    def __init__(
        self, notes: _Notes, layer: Layer, pools: Tensor | None, values: Tensor | None, further: FurtherTexts | None
    ):
        self.notes, self.layer, self.values, self.further = notes, layer, values, further
        self.pools = pools if layer in notes.request.cross else None

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask=None, **_):
        query, key = _heads(attn, attn.to_q(hidden_states)), _heads(attn, attn.to_k(encoder_hidden_states))
        own = query  # without the zeros that come below
        value = _heads(attn, attn.to_v(encoder_hidden_states if self.values is None else self.values))
        spare = 0 if self.pools is None else -(-self.pools.shape[1] // MULTIPLE) * MULTIPLE
        if self.pools is not None:
            columns = F.pad(self.pools.transpose(1, 2), (0, spare - self.pools.shape[1])).to(
                value.dtype
            )  # (B, L, spare)
            value = torch.cat([value, columns[:, None].expand(-1, attn.heads, -1, -1)], -1)
            # Queries and keys get zeros to be as wide as the values: their products stay the same.
            query, key = F.pad(query, (0, spare)), F.pad(key, (0, spare))
        states = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        width = states.shape[-1] - spare
        if self.pools is not None:
            pooled = self._keep(states[..., width : width + self.pools.shape[1]])
            if self.further is not None:
                pooled = torch.cat([pooled, self._read(attn, own, self.pools, self.further)], 1)
            self.notes.seen.cross[self.layer] = pooled
        if self.notes.is_last(self.layer):
            self.notes.note(self.layer, hidden_states, states)
        result = _output(attn, states[..., :width])
        self.notes.note(self.layer, hidden_states, result)
        return result

    def _read(self, attn: Attention, query: Tensor, pools: Tensor, further: FurtherTexts) -> Tensor:
        """How much each row, with queries (B, heads, n, d), would look at each of its further texts, by poolings (K,
        L): (B, R * K, heads, n), R the most texts that a row has, zeros behind. Each B texts go through together, so
        that no map depends on what else is in the batch."""
        width = max(query.shape[-1], -(-pools.shape[1] // MULTIPLE) * MULTIPLE)  # of queries, keys and values alike
        values = F.pad(pools.transpose(1, 2), (0, width - pools.shape[1])).to(query.dtype)[:, None]  # (B, 1, L, width)
        found = []
        for texts, rows in further.batches:
            key = F.pad(_heads(attn, attn.to_k(texts)), (0, width - query.shape[-1]))  # (B, heads, L, width)
            asked = F.pad(query[rows], (0, width - query.shape[-1]))
            value = values[rows].expand(-1, attn.heads, -1, -1)
            states = F.scaled_dot_product_attention(asked, key, value, scale=attn.scale)
            found.append(self._keep(states[..., : pools.shape[1]]))
        every = torch.cat(found)[: sum(further.counts)]  # (M, K, heads, n)
        return pad_sequence([x.flatten(0, 1) for x in every.split(further.counts)], True)

    def _keep(self, pooled: Tensor) -> Tensor:
        """What is kept of pooled probabilities (B, heads, n, K): (B, K, heads, n), heads meaned unless asked for."""
        pooled = at_least_float32(pooled.movedim(-1, 1))
        return pooled.clone() if self.notes.request.by_head else pooled.mean(2, True)


class _SelfReader:
    """Self-attention by the fused kernel, part by part; queries and keys are kept where they are asked for."""

    def __init__(self, notes: _Notes, layer: Layer, parts: Sequence[Part]):
        self.notes, self.layer, self.parts = notes, layer, parts

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states=None, attention_mask=None, **_):
        kept, last = self.layer in self.notes.request.queries_keys, self.notes.is_last(self.layer)
        results = []
        for part in self.parts:
            states = hidden_states[part.taken]
            query, key = _heads(attn, attn.to_q(states)), _heads(attn, attn.to_k(states))
            log_sums = None
            if not last:
                result, log_sums = _attend(query, key, _heads(attn, attn.to_v(states)), attn.scale, kept)
                results.append(_output(attn, result))
            if kept:
                seen = SelfAttention(self.layer, query, key, attn.scale, part.rows, log_sums)
                self.notes.seen.self_attention.append(seen)
        result = hidden_states if last else _assemble(results, self.parts)
        self.notes.note(self.layer, hidden_states, result)
        return result


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, kept: bool) -> tuple[Tensor, Tensor | None]:
    """Fused self-attention, and the logarithms of its softmax's sums where they are at hand and of use: completion by
    them is faster on a CPU (score_map.attend)."""
    plain = query.device.type != "cpu" or query.dtype != torch.float32 or torch.is_grad_enabled()
    if plain or not kept or query.shape[-2] < MANY_CELLS:
        return F.scaled_dot_product_attention(query, key, value, scale=scale), None
    # The kernel that the public function calls as well, which throws the second result away.
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scale)
