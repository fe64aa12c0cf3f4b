"""Empty MLflow stores, copied from one, since creating the tables takes a second."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


def empty_store(folder: Path) -> str:
    """Return the URI of a new store `runs.db` in a folder."""
    path = folder / "runs.db"
    path.write_bytes(_tables())
    return f"sqlite:///{path}"


@cache
def _tables() -> bytes:
    from nl_training.tracking.store import prepare_environment

    prepare_environment()
    from mlflow import MlflowClient

    with TemporaryDirectory() as folder:
        MlflowClient(tracking_uri=f"sqlite:///{folder}/runs.db").search_experiments()
        return Path(folder, "runs.db").read_bytes()
