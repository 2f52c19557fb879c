"""Formulas as MathML, which browsers draw without a script: $..$ in a line, $$..$$ on lines of their own."""

import html
import re

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """The page with each formula that arithmatex marked drawn."""
    content = INLINE.sub(lambda found: convert(html.unescape(found[1])), content)
    return BLOCK.sub(
        lambda found: f'<div class="formula">{convert(html.unescape(found[1]), display="block")}</div>', content
    )
