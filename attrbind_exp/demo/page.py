"""The page: Gradio asks for a picture and expressions, the viewer (static/) shows what the model made of them."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio loads: it tells nobody anything
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import html
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData
from gradio.events import Dependency

from attrbind_exp.demo.answers import KEPT, About, Begin, Look, look, sentence, take_away
from attrbind_exp.demo.compute import MOST_CHARACTERS, MOST_PIXELS, Compared
from attrbind_exp.demo.examples import EXAMPLES, Example
from attrbind_exp.demo.files import ALL, FIGURE, HEAT, MASK, REPEAT
from attrbind_exp.demo.sent import Sent
from attrbind_exp.types import UserError

STATIC = Path(__file__).parent / "static"
MEGABYTES = 12  # of a picture's file at most
WAITING = 16  # people at most; the next is told to come back
DOWNLOADS = {
    MASK: "Mask (PNG)",
    HEAT: "Heat (NPZ)",
    FIGURE: "Figure (PNG)",
    REPEAT: "Command (YAML)",
    ALL: "All, with the picture (ZIP)",
}
FONTS, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # none from the net
BROKEN = "No answer: too many people are waiting, or something broke, which the server's terminal tells. Try again."


def make_page(compared: Compared, about: About, begin: Begin) -> gr.Blocks:
    """The page, ready to be launched with `launch`."""
    title = "attrbind_exp: what does the model see?"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, KEPT)) as page:
        gr.HTML(head(about))
        kept, sent, choice = gr.State(None, time_to_live=KEPT), gr.JSON(visible=False), gr.JSON(visible=False)
        picture, expression, second, button, drawn = questions()
        gr.HTML((STATIC / "viewer.html").read_text(encoding="utf-8"))

        def show(path: str | None, text: str, other: str) -> tuple[Sent, Look | None]:
            return look(compared, about, begin, path, text, other)

        for ask in (button.click, expression.submit, second.submit):
            show_in_viewer(ask, show, [picture, expression, second], [sent, kept])
        for example, press in zip(EXAMPLES, drawn, strict=True):
            picked = press.click(partial(fill, example), None, [picture, expression, second], api_visibility="private")
            show_in_viewer(picked.then, show, [picture, expression, second], [sent, kept])
        downloads(partial(file_or_error, compared, about), choice, kept)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def fill(example: Example) -> tuple[str, str, str]:
    """What is filled in when a drawn picture is pressed."""
    return str(example.path), example.expression, example.swapped


def show_in_viewer(
    ask: Callable[..., Dependency],
    show: Callable[..., tuple[Sent, Look | None]],
    inputs: Sequence[Component],
    outputs: Sequence[Component],
) -> None:
    """Have an event ask the model, and the viewer show the first of what comes back."""
    asked = ask(
        show,
        inputs,
        outputs,
        js="(...asked) => { window.attrbind.busy(); return asked; }",
        api_visibility="private",
        concurrency_id="model",
        show_progress="hidden",
    )
    asked.success(None, outputs[0], None, js="(sent) => { window.attrbind.show(sent); }")
    asked.failure(None, None, None, js=f"() => {{ window.attrbind.complain({json.dumps(BROKEN)}); }}")


def downloads(make: Callable[..., str], choice: gr.JSON, kept: gr.State) -> None:
    """A button for each file: it has the file of the chosen map made, and the browser save it."""
    with gr.Column(elem_id="take"):
        gr.HTML("<h2>Download the chosen map</h2>")
        made = gr.File(visible=False)
        with gr.Row():
            for name, label in DOWNLOADS.items():
                begun = f"window.attrbind.tell('Making {name} …'); return [window.attrbind.choice(), kept];"
                ended = f"window.attrbind.tell('{name} is among your downloads.'); window.attrbind.save(file);"
                asked = gr.Button(label, size="md", min_width=110).click(
                    partial(make, name),
                    [choice, kept],
                    made,
                    js=f"(_, kept) => {{ {begun} }}",
                    api_visibility="private",
                    concurrency_id="files",
                    show_progress="hidden",
                )
                asked.success(None, made, None, js=f"(file) => {{ {ended} }}")
                asked.failure(None, None, None, js="() => { window.attrbind.tell(''); }")
        gr.HTML('<p id="v-file" role="status"></p>')


def file_or_error(
    compared: Compared, about: About, name: str, chosen: dict[str, float] | None, last: Look | None
) -> str:
    """The path of a file to download; what a visitor can mend is shown by Gradio."""
    try:
        return take_away(name, compared, about, chosen, last)
    except UserError as error:
        raise gr.Error(sentence(str(error)), print_exception=False) from error


def questions() -> tuple[gr.Image, gr.Textbox, gr.Textbox, gr.Button, list[gr.Button]]:
    """What is asked for: picture, expression and second expression, the button, and the drawn pictures."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            picture = gr.Image(
                label="Picture: drop, paste or choose one",
                type="filepath",
                sources=["upload", "clipboard"],
                height=250,
                image_mode=None,
                buttons=[],
                elem_id="picture",
            )
            # The file as it was uploaded: we say what is wrong with it, and downloads hold its very bytes.
            picture.preprocess = path_of  # type: ignore[method-assign, assignment]
        with gr.Column(scale=2, min_width=280):
            example = EXAMPLES[0]
            expression = gr.Textbox(
                label="Expression",
                placeholder=example.expression,
                max_lines=1,
                max_length=MOST_CHARACTERS,
                elem_id="expression",
            )
            second = gr.Textbox(
                label="Second expression, to see the difference (may stay empty)",
                placeholder=example.swapped,
                max_lines=1,
                max_length=MOST_CHARACTERS,
                elem_id="second",
            )
            button = gr.Button("Look", variant="primary", elem_id="look")
    gr.HTML('<p id="drawn-title">Or press a drawn picture:</p>')
    with gr.Row(elem_id="drawn"):
        drawn = [gr.Button(e.expression, icon=e.path, size="sm", min_width=90) for e in EXAMPLES]
    return picture, expression, second, button, drawn


def path_of(uploaded: ImageData | None) -> str | None:
    """The path of an uploaded file, None where there is none."""
    return None if uploaded is None else uploaded.path


def head(about: About) -> str:
    """Title, which model this is and what it cannot know, and what the page takes."""
    return (
        "<h1>What does a diffusion model see in your words?</h1>"
        "<p>Heat shows where the model sees what the expression names, after one noising step.</p>"
        f'<p class="model-note"><b>Model: {html.escape(about.name)}.</b> {html.escape(about.limits)}</p>'
        f'<p class="limits">Pictures up to {MEGABYTES} MB and {MOST_PIXELS // 1_000_000} million pixels, expressions '
        f"up to {MOST_CHARACTERS} characters. One visitor is answered at a time; up to {WAITING} wait.</p>"
    )


def theme() -> gr.themes.Base:
    """Gradio's look with the system's own fonts, and a button whose words stand out from its orange."""
    orange = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800"}
    return gr.themes.Default(font=FONTS, font_mono=MONO).set(
        **orange, **{f"{key}_dark": hue for key, hue in orange.items()}
    )


def launch(page: gr.Blocks, host: str | None, port: int | None, share: bool, open_it: bool, block: bool = True) -> str:
    """Serve the page and return its address; with `block`, when it is stopped. Nothing on it comes from another host.

    `host` and `port` None: Gradio's variables, else this machine alone and the first free port from 7860 on. Raises
    UserError where the port is taken.
    """
    script, style = ((STATIC / name).read_text(encoding="utf-8") for name in ("demo.js", "demo.css"))
    try:
        _, address, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            inbrowser=open_it,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=f"{MEGABYTES}mb",
            show_error=False,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            theme=theme(),
            head=f"<style>{style}</style><script>{script}</script>",
        )
    except OSError as error:
        what = str(error).partition(".")[0]
        raise UserError(f"port={port}: {what}; give port=NUMBER of a free one, or port=null") from error
    print(f"the page is at {public or address} (Ctrl+C ends it)", flush=True)
    if block:
        page.block_thread()
    return address
