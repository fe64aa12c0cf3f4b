"""Empty MLflow stores, whose tables are made once and copied, since making them takes a second."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


def empty_store(folder: Path) -> str:
    """The address of a new store `runs.db` in a folder."""
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
