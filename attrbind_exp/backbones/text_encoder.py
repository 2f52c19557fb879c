"""CLIP's text encoder: texts -> embeddings, plainly or as a TextRequest says."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import CLIPTextModel

from attrbind_exp.backbones.backbone import EncodedText
from attrbind_exp.backbones.tensors import pad_rows, to_device
from attrbind_exp.language.window import Text, TextRequest, TextWindow, Tokens
from attrbind_exp.memory import in_parts
from attrbind_exp.types import UserError

TEXT_BATCH = 8  # texts encoded at once
TEXTS_TOGETHER = "the number of texts that are encoded together"


def encode_texts(
    encoder: CLIPTextModel, window: TextWindow, texts: Sequence[Text], size: int
) -> tuple[list[EncodedText], int]:
    """Every text in the full padded window, (L, D), and how many were encoded at once: `size`, fewer where memory ran
    out.

    Those of one kind come together, always `size` rows: a text's embedding does not depend on which others come with
    it. Raises UserError for a hidden state that the encoder does not have.
    """
    requests = [text if isinstance(text, TextRequest) else TextRequest(text) for text in texts]
    tokens = window([request.text for request in requests])
    ids = torch.tensor([t.ids for t in tokens])
    seen = torch.tensor([attended(*both) for both in zip(tokens, requests, strict=True)])
    states: dict[int, Tensor] = {}
    for layer, hides in dict.fromkeys((r.layer, bool(r.hidden)) for r in requests):

        def encode_rows(part: Sequence[int], size: int, layer: int | None = layer, hides: bool = hides) -> list[Tensor]:
            mask = pad_rows(to_device(seen[part], encoder.device), size) if hides else None
            return list(encode(encoder, pad_rows(to_device(ids[part], encoder.device), size), mask, layer)[: len(part)])

        rows = [i for i, r in enumerate(requests) if (r.layer, bool(r.hidden)) == (layer, hides)]
        found, size = in_parts(encode_rows, rows, size, TEXTS_TOGETHER)
        states |= zip(rows, found, strict=True)
    return [EncodedText(t, states[i]) for i, t in enumerate(tokens)], size


def attended(tokens: Tokens, request: TextRequest) -> list[int]:
    """1 for each of the L tokens that others may attend to, 0 for a hidden one."""
    hidden = {i for span in request.hidden for i in tokens.at(*span)}
    return [int(i not in hidden) for i in range(len(tokens.ids))]


def encode(encoder: CLIPTextModel, ids: Tensor, seen: Tensor | None, layer: int | None) -> Tensor:
    """The embeddings (b, L, D) of rows of token ids (b, L), `seen` (b, L) as `attended` gives it."""
    if seen is None and layer is None:
        return encoder(ids).last_hidden_state
    found = encoder(ids, attention_mask=seen, output_hidden_states=layer is not None)
    if layer is None:
        return found.last_hidden_state
    count = len(found.hidden_states)
    if not -count <= layer < count:
        raise UserError(f"layer={layer} of the text encoder; this one has 0 to {count - 1}, or -{count} to -1")
    (norm,) = (module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
    return norm(found.hidden_states[layer])
