"""attrbind COMMAND: every command by one word. Help, version and wrong words are answered before any library loads."""

import importlib
import sys

from attrbind_exp import __version__
from attrbind_exp.commands.start import start
from attrbind_exp.commands.table import COMMANDS
from attrbind_exp.runs.shown import clean, did_you_mean

HELP = f"""\
How well a text-to-image diffusion model segments what an expression names, under edits of the text embedding.

  attrbind segment photo.jpg "white dog playing with two black dogs" model=sd15
  attrbind run text_processor=ablation

Commands:
{chr(10).join(f"  {name:<10}{command.does}" for name, command in COMMANDS.items())}

  attrbind COMMAND --help         what a command takes; python -m attrbind_exp.COMMAND is the same command
  attrbind COMMAND -v, -q         say more, or errors and the last line alone
  attrbind --version
  attrbind --completion SHELL     completion for bash or zsh: put  eval "$(attrbind --completion bash)"  into ~/.bashrc

Exit codes: 0 done, 1 something failed or is missing, 2 something is to be mended first (one line says what),
130 stopped.
"""


def main() -> None:
    """Answer, or hand over to the command that was typed."""
    given = sys.argv[1:] or ["--help"]
    word = given[0]
    if word in ("-h", "--help", "help"):
        print(HELP, end="")
    elif word == "--version":
        print(f"attrbind {__version__}")
    elif word in ("--completion", "--complete"):
        from attrbind_exp.commands import completion

        completion.main(given)
    elif word in COMMANDS:
        hand_over(word, given[1:])
    else:
        print(f"error: {unknown(word)}", file=sys.stderr)
        sys.exit(2)


def hand_over(name: str, arguments: list[str]) -> None:
    """Begin a command as `python -m attrbind_exp.NAME` does, with these arguments."""
    sys.argv[1:] = arguments
    module = COMMANDS[name].module
    try:
        if module is None:
            start(name)
        else:
            importlib.import_module(module).main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def unknown(word: str) -> str:
    """What is wrong with a first word that is no command."""
    choices = f"choose from {', '.join(COMMANDS)}"
    if "=" in word or word.startswith("-"):
        return f"'{clean(word)}' stands where a command belongs, as in attrbind run alpha=0.9; {choices}"
    return f"unknown command '{clean(word)}'; {did_you_mean(word, COMMANDS, cutoff=0.5)}{choices}"
