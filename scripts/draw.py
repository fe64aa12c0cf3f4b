"""Draw the node graph of a layer, any model under any config, or a logged run: `python scripts/draw.py --help`."""

import sys

from nl_training.config.cli import main, run_command, script

HELP = """Draws the node graph, as it is defined beside what the compiler makes of it, as an SVG and as a page to look
around in: pan, zoom, open layers, click a node for its formula, shapes, memory, the statistics of its values and
gradients, how far its gradient is from a numerical one, its time forward and backward on one CPU thread, and for what
it became, or is made of, in the other graph.

  python scripts/draw.py layer=Affine                       a layer or loss alone
  python scripts/draw.py model=vgg16 regularization=all     a model under a config, with its first weights
  python scripts/draw.py run=ID                             a logged run's network with its best weights

The files lie in outputs/drawings. A training logs them with its run when tracking.draw=true."""


def task(config, cfg):
    """Draw a config's network."""
    from nl_training.commands.draw import draw_config

    draw_config(config)


def task_run(run_id, config, overrides):
    """Draw a logged run's network."""
    from nl_training.commands.draw import draw_run

    draw_run(run_id, config)


def layer(arguments):
    """Draw one layer."""
    from nl_nodes import UserError
    from nl_training.commands.draw import draw_layer

    with script():
        if len(arguments) > 1:
            raise UserError(f"layer=NAME stands alone, got {' '.join(arguments)}")
        draw_layer(arguments[0].removeprefix("layer="))


if __name__ == "__main__":
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words) or any(word.startswith("run=") for word in words):
        run_command(task_run, HELP, takes=("device", "verify"))
    elif any(word.startswith("layer=") for word in words):
        layer(words)
    else:
        main(task)
