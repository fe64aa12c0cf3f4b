"""Evaluate a logged run on a test set: `python scripts/evaluate.py run=ID [data=... device=...]`."""

from nl_training.config.cli import run_command

HELP = """Evaluates a logged run's best weights on a test set: accuracy in total and per class, confusion matrix and
worst mistakes.

  python scripts/evaluate.py run=latest
  python scripts/evaluate.py run=ID data=mnist data.root=FOLDER

Without data=... it uses the test set of the run's own data."""


def task(run_id, config, overrides):
    """Evaluate one run."""
    from nl_training.commands.evaluate import evaluate

    evaluate(run_id, config, same_data=not any(o.startswith("data") for o in overrides))


if __name__ == "__main__":
    run_command(task, HELP, takes=("data", "seed", "device"))
