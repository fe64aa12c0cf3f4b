"""Draw the node graph of a layer, any model under any config, or a logged run: `python scripts/draw.py --help`."""

import sys

from nl_training.config.cli import main, run_command, script

HELP = """Draws the node graph next to its compiled form, as an SVG and as an interactive page: pan, zoom, open layers,
and click a node for its formula, shapes, memory, statistics of its values and gradients, the difference between its
gradient and a numerical one, its time forward and backward on one CPU thread, and its counterparts in the other graph.

  python scripts/draw.py layer=Affine                       a single layer or loss
  python scripts/draw.py model=vgg16 regularization=all     a model with its initial weights
  python scripts/draw.py run=ID                             a logged run's network with its best weights

The files are written to outputs/drawings. With tracking.draw=true a training logs them with its run."""


def task(config, cfg):
    """Draw a config's network."""
    from nl_training.commands.draw import draw_config

    draw_config(config)


def task_run(run_id, config, overrides):
    """Draw a logged run's network."""
    from nl_training.commands.draw import draw_run

    draw_run(run_id, config)


def layer(arguments):
    """Draw a single layer."""
    from nl_nodes import UserError
    from nl_training.commands.draw import draw_layer

    with script():
        if len(arguments) > 1:
            raise UserError(f"layer=NAME takes no other arguments, got {' '.join(arguments)}")
        draw_layer(arguments[0].removeprefix("layer="))


if __name__ == "__main__":
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words) or any(word.startswith("run=") for word in words):
        run_command(task_run, HELP, takes=("device", "verify"))
    elif any(word.startswith("layer=") for word in words):
        layer(words)
    else:
        main(task)
