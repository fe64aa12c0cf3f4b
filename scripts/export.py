"""Write a logged run's network as ONNX: `python scripts/export.py run=ID`."""

from nl_training.config.cli import run_command

HELP = """Writes a logged run's network with its best weights as an ONNX model, for onnxruntime and others.

  python scripts/export.py run=latest

The model's input is raw pixels in the range of the run's data, which its metadata contains. Batch norm and dropout are
in inference mode, and the batch size is free. The file is written to outputs/export and logged with the run as
export/model.onnx.
Needs the package onnx: python -m pip install -c constraints.txt onnx"""


def task(run_id, config, others):
    """Export one run."""
    from nl_nodes import UserError
    from nl_training.commands.export import export

    if others:
        raise UserError(f"{others[0]}: export takes only run=ID, tracking.uri and tracking.experiment_name")
    export(run_id, config)


if __name__ == "__main__":
    run_command(task, HELP, words=True)
