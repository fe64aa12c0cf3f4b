"""Classify image files with a logged run: `python scripts/predict.py run=ID FILE...`."""

from nl_training.config.cli import run_command

HELP = """Tells the classes and probabilities of image files, by a logged run's best weights.

  python scripts/predict.py run=latest three.png seven.jpg
  python scripts/predict.py run=latest invert=no scan.png

A picture is turned upright, grey or to colours, resized and scaled as the run's own are. With invert=auto, the default,
one on a light ground is inverted where the run's are grey on a dark one, or the opposite, and that is said; invert=yes
inverts all, invert=no none."""


def task(run_id, config, files):
    """Classify the files."""
    from nl_nodes import UserError
    from nl_training.commands.evaluate import predict

    pictures = [file for file in files if not file.startswith("invert=")]
    invert = [file.removeprefix("invert=") for file in files if file.startswith("invert=")]
    if not pictures:
        raise UserError("which files? python scripts/predict.py run=ID FILE...")
    predict(run_id, config, pictures, *invert[-1:])


if __name__ == "__main__":
    run_command(task, HELP, words=True)
