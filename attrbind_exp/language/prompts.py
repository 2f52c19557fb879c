"""Expression -> Prompt: parse it, put it behind the template, find the positions of its target and noun chunk."""

import re
from collections.abc import Sequence

from attrbind_exp.cache import Cache
from attrbind_exp.language.parse_cache import parse_cached
from attrbind_exp.language.window import TextWindow, Tokens
from attrbind_exp.types import Parse, Prompt, TextSettings


def place_prompts(
    window: TextWindow,
    texts: Sequence[str],
    categories: Sequence[str | None] | None = None,
    captions: Sequence[str | None] | None = None,
    settings: TextSettings = TextSettings(),
    cache: Cache | None = None,
) -> list[Prompt]:
    """One Prompt for every expression of `texts`.

    It never fails on words: each fallback rule that was used is named in `Prompt.fallbacks`. Where the tokenizer sees
    nothing at all, `q` is empty. `categories` help the parser. A caption starts with its expression and goes on; it
    takes the expression's place in the prompt, with the target that the expression has. `cache` keeps parses.
    """
    parses = parse_cached(cache, texts, categories, settings.chunk, captions, settings.overrides)
    prompts = window([settings.prefix + p.text for p in parses])
    chunks = window([p.chunk_text for p in parses])
    return [_place(*parts, settings) for parts in zip(parses, prompts, chunks, strict=True)]


def _place(parse: Parse, tokens: Tokens, chunk_tokens: Tokens, settings: TextSettings) -> Prompt:
    shift = len(settings.prefix)
    q = tokens.at(parse.target[0] + shift, parse.target[1] + shift)
    pos = tokens.at(parse.chunk[0] + shift, parse.chunk[1] + shift)
    fallbacks = [parse.fallback] if parse.fallback else []
    if tokens.truncated:
        fallbacks.append("prompt_truncated")
    bind = parse.binding
    further = _ing_positions(parse, q, settings.ing_offsets, len(tokens.ids)) if settings.ing_rule else ()
    if not q:
        fallbacks.append("target_truncated")
        q = pos = tokens.at(shift, shift + len(parse.text))
        bind = False
    elif bind and not _same_tokens(tokens, pos, chunk_tokens):
        fallbacks.append("chunk_mismatch")
        bind = False
    if settings.gate and not parse.modified:
        bind = False
    read = (*(q if settings.token_pooling == "mean" else q[-1:]), *further)
    return Prompt(settings.prefix + parse.text, parse, q, pos, read, bind, tuple(fallbacks), tokens.content)


def _same_tokens(tokens: Tokens, pos: Sequence[int], chunk_tokens: Tokens) -> bool:
    """Whether the chunk alone consists of the tokens that it has in the prompt."""
    return [tokens.ids[i] for i in pos] == [chunk_tokens.ids[i] for i in chunk_tokens.content]


def _ing_positions(parse: Parse, q: Sequence[int], offsets: Sequence[int], window: int) -> tuple[int, ...]:
    """DiffSegmenter's rule: where the word after the target ends in "-ing", further positions are read, `offsets` after
    the target's last piece.

    At 1 that is the "-ing" word, or its first piece. The published script reads at 2, which for an "-ing" word of one
    piece is the token AFTER it: it counts the "++" that it writes behind the class word as a token, but the embedding
    has none for it.
    """
    follows = q and re.match(r"\s+\S*ing(?!\S)", parse.text[parse.target[1] :])
    return tuple(q[-1] + n for n in offsets if q[-1] + n < window) if follows else ()
