"""The page: Gradio asks for a picture and expressions, the viewer (static/) shows what the model made of them."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio loads: it tells nobody anything
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import html
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData
from gradio.events import Dependency

from attrbind_exp.demo import compute
from attrbind_exp.demo.compute import MOST_CHARACTERS, Compared, Seen
from attrbind_exp.demo.examples import EXAMPLES
from attrbind_exp.demo.files import Choice, write_files
from attrbind_exp.demo.sent import Sent, to_send
from attrbind_exp.types import UserError

STATIC = Path(__file__).parent / "static"
LARGEST_FILE = "12mb"
WAITING = 16  # people at most; the next is told to come back
KEPT = 3600  # seconds, for which uploads and what the model saw stay
FONTS, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # none from the net
BROKEN = "Something is broken here: the server's terminal says what. Try another picture or expression."


class Begin(TypedDict):
    """What is chosen when the page opens: numbers of method, reading and alpha, and a threshold in hundredths."""

    method: int
    reading: int
    alpha: int
    threshold: int


@dataclass(frozen=True)
class About:
    """What the page says of its model. `name`: what it is called; `limits`: what it cannot know; `warning`: what to know
    of its maps on pictures that are not drawn, None for nothing; `started_with`: the arguments that name it and how it is
    read."""

    name: str
    limits: str
    warning: str | None
    started_with: Sequence[str]

from gradio.events import Dependency

class Picture(gr.Image):
    """Gradio's image, whose file is taken as it was uploaded: what is no picture is refused in our words, and the
    downloads hold the very bytes."""

    is_template = True  # for the browser it is Gradio's own

    def preprocess(self, payload: ImageData | None) -> str | None:
        """The path of the uploaded file, None where there is none."""
        return None if payload is None else payload.path
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


@dataclass(frozen=True)
class Look:
    """What the page keeps for one visitor: the last picture, and what the model saw of the expressions."""

    path: str
    seen: Sequence[Seen]


def look(
    compared: Compared, about: About, begin: Begin, path: str | None, expression: str, second: str
) -> tuple[Sent, Look | None]:
    """What the viewer shows, and what is kept for downloads. What a visitor can mend is said in "error"."""
    try:
        if path is None:
            raise UserError("no picture; drop one, or press one of the eight drawn ones")
        texts = [compute.check_expression(text) for text in (expression, *([second] if second.strip() else []))]
        image = compute.open_limited(path)
        seen = compute.see(compared, image, texts)
    except UserError as error:
        return {"error": sentence(str(error))}, None
    warning = None if is_drawn(path) else about.warning
    return {**to_send(compared, image, seen, warning), "begin": begin}, Look(path, seen)


def is_drawn(path: str) -> bool:
    """Whether a file is one of the drawn pictures, whatever it is called."""
    content = Path(path).read_bytes()
    return any(content == example.path.read_bytes() for example in EXAMPLES)


def sentence(text: str) -> str:
    """A message as a sentence: a capital at its beginning, a full stop at its end."""
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def take_away(compared: Compared, about: About, choice: dict[str, float] | None, kept: Look | None) -> list[str]:
    """The paths of the files of what is chosen in the viewer. Raises gr.Error while nothing is shown."""
    if kept is None or choice is None:
        raise gr.Error("Nothing to download yet: press “Look” first.", print_exception=False)
    picked = Choice(int(choice["variant"]), round(float(choice["threshold"]), 2))
    if not (0 <= picked.variant < len(compared.variants) and 0 <= picked.threshold <= 1):
        raise gr.Error("Choose a map and a threshold on the page.", print_exception=False)
    folder = new_folder()
    image = compute.open_limited(kept.path)
    made = write_files(compared, Path(kept.path), image, kept.seen, picked, about.started_with, folder)
    return [str(path) for path in made]


def new_folder() -> Path:
    """A folder for the files of one press of the button. Gradio copies them; folders of an hour ago are removed."""
    place = Path(tempfile.gettempdir()) / f"attrbind_exp_demo_{os.getpid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    for old in place.iterdir():
        if old.stat().st_mtime < time.time() - KEPT:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=place))


def make_page(compared: Compared, about: About, begin: Begin) -> gr.Blocks:
    """The page, ready to be launched with `launch`."""
    title = "attrbind_exp: what does the model see?"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, KEPT)) as page:
        gr.HTML(head(about))
        kept, sent, choice = gr.State(None, time_to_live=KEPT), gr.JSON(visible=False), gr.JSON(visible=False)
        picture, expression, second, button, drawn = questions()
        gr.HTML((STATIC / "viewer.html").read_text(encoding="utf-8"))
        get = gr.Button("Make files of the chosen map", elem_id="get")
        label = "Mask, heat, figure, the command that repeats it, the picture"
        files = gr.File(label=label, interactive=False, file_count="multiple", elem_id="files", visible=False)

        def show(path: str | None, text: str, other: str) -> tuple[Sent, Look | None]:
            return look(compared, about, begin, path, text, other)

        def fill(event: gr.SelectData) -> tuple[str, str, str]:
            example = EXAMPLES[event.index]
            return str(example.path), example.expression, example.swapped

        def make(chosen: dict[str, float] | None, last: Look | None) -> gr.File:
            return gr.File(take_away(compared, about, chosen, last), visible=True)

        for ask in (button.click, expression.submit, second.submit):
            show_in_viewer(ask, show, [picture, expression, second], [sent, kept])
        picked = drawn.select(fill, None, [picture, expression, second], api_visibility="private")
        show_in_viewer(picked.then, show, [picture, expression, second], [sent, kept])
        js = "(chosen, last) => [window.attrbind.choice(), last]"
        get.click(make, [choice, kept], files, js=js, api_visibility="private")
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def show_in_viewer(
    ask: Callable[..., Dependency],
    show: Callable[..., tuple[Sent, Look | None]],
    inputs: Sequence[Component],
    outputs: Sequence[Component],
) -> None:
    """Have an event ask the model, and the viewer show the first of what comes back."""
    asked = ask(
        show, inputs, outputs, js="(...asked) => { window.attrbind.busy(); return asked; }", api_visibility="private",
        concurrency_id="model", show_progress="hidden",
    )  # fmt: skip
    asked.success(None, outputs[0], None, js="(sent) => { window.attrbind.show(sent); }")
    asked.failure(None, None, None, js=f"() => {{ window.attrbind.complain({json.dumps(BROKEN)}); }}")


def questions() -> tuple[Component, Component, Component, Component, Component]:
    """What is asked for: picture, expression and second expression, the button, and the drawn pictures."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            picture = Picture(
                label="Picture: drop, paste or choose one", type="filepath", sources=["upload", "clipboard"],
                height=250, image_mode=None, buttons=[], elem_id="picture",
            )  # fmt: skip
        with gr.Column(scale=2, min_width=280):
            example = EXAMPLES[0]
            expression = gr.Textbox(
                label="Expression", placeholder=example.expression, max_lines=1, max_length=MOST_CHARACTERS,
                elem_id="expression",
            )  # fmt: skip
            second = gr.Textbox(
                label="Second expression, to see the difference (may stay empty)", placeholder=example.swapped,
                max_lines=1, max_length=MOST_CHARACTERS, elem_id="second",
            )  # fmt: skip
            button = gr.Button("Look", variant="primary", elem_id="look")
    drawn = gr.Gallery(
        [(str(e.path), e.expression) for e in EXAMPLES], label="Or press a drawn picture", columns=8, height="auto",
        allow_preview=False, buttons=[], interactive=False, object_fit="contain", elem_id="drawn",
    )  # fmt: skip
    return picture, expression, second, button, drawn


def head(about: About) -> str:
    """Title, and which model this is and what it cannot know."""
    return (
        "<h1>What does a diffusion model see in your words?</h1>"
        "<p>Heat shows where the model sees what the expression names, after one noising step and one pass.</p>"
        f'<p class="model-note"><b>Model: {html.escape(about.name)}.</b> {html.escape(about.limits)}</p>'
    )


def launch(page: gr.Blocks, host: str | None, port: int | None, share: bool, open_it: bool, block: bool = True) -> str:
    """Serve the page and return its address; with `block`, when it is stopped. Nothing on it comes from another host.

    `host` and `port` None: Gradio's variables, else this machine alone and the first free port from 7860 on. Raises
    UserError where the port is taken.
    """
    script = (STATIC / "demo.js").read_text(encoding="utf-8")
    try:
        _, address, public = page.launch(
            server_name=host, server_port=port, share=share, inbrowser=open_it, prevent_thread_lock=not block,
            max_file_size=LARGEST_FILE, show_error=False, footer_links=[], ssr_mode=False, pwa=False, mcp_server=False,
            run_history=False, enable_monitoring=False, theme=gr.themes.Default(font=FONTS, font_mono=MONO),
            css=(STATIC / "demo.css").read_text(encoding="utf-8"), head=f"<script>{script}</script>",
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{error}; give port=NUMBER of a free one, or port=null") from error
    return public or address