"""The summary command: each layer's output shape, parameters, operations and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nl_training.config import build, cli

if TYPE_CHECKING:
    from nl_training.config.schema import Config


def main() -> None:
    """Print the summary of the command line's network."""
    cli.main(lambda config, _: summary(config))


def summary(config: Config) -> None:
    """Print the summary of a config's network for a training step on one batch of its data."""
    net = build.network(config, build.dataset(config), build.device(config))
    print(net.summary(config.trainer.batch_size))
