"""Verify the gradients of any model under any config: `python scripts/gradcheck.py model=vgg11 regularization=all`."""

import sys

from nl_training.config.cli import main

holds = []


def task(config, cfg):
    """Check one config."""
    from nl_training.reports import gradcheck

    holds.append(gradcheck(config))


if __name__ == "__main__":
    main(task)
    sys.exit(0 if all(holds) else 1)
