"""Verify the gradients of any model under any config, or of a logged run: `python scripts/gradcheck.py --help`."""

import shlex
import sys

from nl_training.config.cli import main, run_command

HELP = """Verifies each parameter's gradient on real images against the complex step; exits with 1 if one is wrong.

  python scripts/gradcheck.py model=vgg11 regularization=all    a model with its initial weights
  python scripts/gradcheck.py run=ID                            a logged run's network with its best weights
  python scripts/gradcheck.py run=latest device=gpu             the same, with gradients computed on another device

Prints a table and the node of a wrong gradient, and writes a figure to outputs/gradcheck."""

COMMAND = f"python scripts/gradcheck.py {shlex.join(sys.argv[1:])}".strip()
holds = []


def task(config, cfg):
    """Check one config."""
    from nl_training.commands.gradcheck import gradcheck

    holds.append(gradcheck(config, COMMAND))


def task_run(run_id, config, overrides):
    """Check one run."""
    from nl_training.commands.gradcheck import gradcheck_run

    holds.append(gradcheck_run(run_id, config, COMMAND))


if __name__ == "__main__":
    if {"--help", "-h"} & set(sys.argv) or any(a.startswith("run=") for a in sys.argv[1:]):
        run_command(task_run, HELP, takes=("device",))
    else:
        main(task)
    sys.exit(0 if all(holds) else 1)
