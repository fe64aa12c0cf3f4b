"""Classify image files with a logged run: `python scripts/predict.py run=ID FILE...`."""

from nl_training.config.cli import run_command

HELP = """Tells the classes and probabilities of image files, by a logged run's best weights.

  python scripts/predict.py run=latest three.png seven.jpg

A picture is turned grey or to colours and resized as the network needs it; as in MNIST, digits are light on dark."""


def task(run_id, config, files):
    """Classify the files."""
    from nl_nodes import UserError
    from nl_training.reports import predict

    if not files:
        raise UserError("which files? python scripts/predict.py run=ID FILE...")
    predict(run_id, config, files)


if __name__ == "__main__":
    run_command(task, HELP, words=True)
