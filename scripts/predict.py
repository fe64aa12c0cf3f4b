"""Classify image files with a logged run: `python scripts/predict.py run=ID FILE...`."""

from nl_training.config.cli import run_command

HELP = """Prints the classes and probabilities of image files, predicted with a logged run's best weights.

  python scripts/predict.py run=latest three.png seven.jpg
  python scripts/predict.py run=latest invert=no scan.png

An image is turned upright and converted to the channels, size and range of the run's images. With invert=auto, the
default, an image with a light background is inverted if the run's images are grey with a dark one, or the opposite, and
a note is printed; invert=yes inverts all, invert=no none."""


def task(run_id, config, files):
    """Classify the files."""
    from nl_nodes import UserError
    from nl_training.commands.predict import predict

    pictures = [file for file in files if not file.startswith("invert=")]
    invert = [file.removeprefix("invert=") for file in files if file.startswith("invert=")]
    if not pictures:
        raise UserError("which files? python scripts/predict.py run=ID FILE...")
    predict(run_id, config, pictures, *invert[-1:])


if __name__ == "__main__":
    run_command(task, HELP, words=True)
