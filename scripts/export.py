"""Write a logged run's network as ONNX: `python scripts/export.py run=ID`."""

from nl_training.config.cli import run_command

HELP = """Writes a logged run's best weights as an ONNX model, for onnxruntime and others.

  python scripts/export.py run=latest

The model takes raw pixels in the range of the run's data; its metadata says which. Batch norm and dropout take their
inference form; the batch may be of any size. The file lies in outputs/export and in the run, as export/model.onnx.
Needs the package onnx: python -m pip install -c constraints.txt onnx"""


def task(run_id, config, others):
    """Export one run."""
    from nl_nodes import UserError
    from nl_training.commands.export import export

    if others:
        raise UserError(f"{others[0]}: export takes run=ID, tracking.uri and tracking.experiment_name alone")
    export(run_id, config)


if __name__ == "__main__":
    run_command(task, HELP, words=True)
