"""Train a network: `python scripts/train.py --help`."""

from nl_training.config.cli import main


def task(config, cfg):
    """Train and log one run, or run one experiment."""
    from nl_training.commands.train import experiment

    return experiment(config, cfg)


def sweep(config, overrides):
    """Open the parent run of a sweep."""
    from nl_training.tracking.sweep_run import sweep_run

    return sweep_run(config, overrides)


if __name__ == "__main__":
    main(task, sweep)
