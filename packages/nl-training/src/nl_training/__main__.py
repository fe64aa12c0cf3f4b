"""The installed command: `nl COMMAND ...`, or `python -m nl_training COMMAND ...`."""

from __future__ import annotations

import os
import sys
from importlib import import_module

# Each is the function `main` of its module in `nl_training.commands`, imported only when the command is chosen.
COMMANDS = {
    "train": "train a network, evaluate it and log the run; -m sweeps",
    "evaluate": "evaluate a logged run on a test set",
    "predict": "classify image files with a logged run",
    "gradcheck": "verify the gradients of a model or a logged run",
    "draw": "draw the node graph of a layer, a model or a logged run",
    "summary": "print the layers of a model with their costs",
    "search": "search hyperparameters",
    "export": "write a logged run's network as ONNX",
    "bench": "measure a model's training step, node by node",
    "ui": "show the runs in the browser",
}
COMPLETION = ("-sc", "--shell-completion")


def main() -> None:
    """Run the command that the first argument names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        from nl_training import __version__

        print(__version__)
    elif name in COMPLETION:
        _complete(arguments)
    elif name not in COMMANDS:
        from nl_nodes.arguments import near

        sys.exit(f"error: {name} is not a command: {near(name, COMMANDS)}")
    elif arguments[:1] and arguments[0] in COMPLETION:
        _complete(arguments[1:])
    else:
        sys.argv[1:] = arguments
        import_module(f"nl_training.commands.{name}").main()


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: nl COMMAND [KEY=VALUE...]",
            "",
            *lines,
            "",
            "nl COMMAND --help shows the options of a command.",
            'Tab completion: eval "$(nl -sc install=bash)"',
        ]
    )


def _complete(arguments: list[str]) -> None:
    """Complete the name of a command, or its overrides as Hydra does: it gets the line without that name."""
    program, _, rest = os.environ.get("COMP_LINE", "").partition(" ")
    _, chosen, overrides = rest.lstrip().partition(" ")
    if arguments[:1] == ["query=bash"] and not chosen:
        print(*COMMANDS)
        return
    os.environ["COMP_LINE"] = f"{program} {overrides}"
    from nl_training.config import cli

    sys.argv[1:] = [COMPLETION[0], *arguments]
    cli.main(lambda config, cfg: None)


if __name__ == "__main__":
    main()
