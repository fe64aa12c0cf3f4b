"""One run in MLflow, from its parameters to its model, with a status that is true."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_models import save_state
from nl_training import plots
from nl_training.observer import EpochReport, Observer, Result, StepReport
from nl_training.tracking import provenance
from nl_training.tracking.interrupts import Interrupts, status_of
from nl_training.tracking.links import view_hint
from nl_training.tracking.metrics import MetricBuffer
from nl_training.tracking.model import describe, log_model, softmax
from nl_training.tracking.store import Store
from nl_training.tracking.system import SystemMetrics

if TYPE_CHECKING:
    from nl_training.trainer import Trainer

PARENT = "NL_PARENT_RUN_ID"


class MLflowTracker(Observer):
    """Logs one training; a context that closes its run as FINISHED, FAILED or KILLED.

    Args:
        store: where the run is kept.
        config: the whole resolved config, nested.
        name: the run's name.
        text: the config as YAML, logged as a file.
    """

    def __init__(self, store: Store, config: Mapping[str, Any], name: str, text: str) -> None:
        self.store, self.config, self.name, self.text = store, config, name, text
        self.run_id = ""
        self._interrupts = Interrupts()
        self._steps: list[tuple[int, float, float]] = []

    def __enter__(self) -> MLflowTracker:
        self._interrupts.__enter__()
        self._interrupts.hold()
        tags = provenance.tags()
        if parent := os.environ.get(PARENT):
            tags["mlflow.parentRunId"] = parent
        run = self.store.client.create_run(self.store.experiment_id, tags=tags, run_name=self.name)
        self.run_id = run.info.run_id
        self._metrics = MetricBuffer(self.store.client, self.run_id)
        try:
            self._log_params()
            self._text("config.yaml", self.text)
            self._text("packages.txt", provenance.packages())
            self._system = SystemMetrics()
            self._interrupts.release()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        """End the run; trouble with the store must not hide the error that ended the training."""
        self._interrupts.hold()
        try:
            self._metrics.flush()
            if error is not None:
                self.store.client.set_tag(self.run_id, "error", f"{type(error).__name__}: {error}"[:500])
            self.store.client.set_terminated(self.run_id, status_of(error))
        except Exception:
            if error is None:
                raise
        finally:
            self._interrupts.__exit__(None, error, None)

    def _log_params(self) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in provenance.flatten(self.config).items()]
        self.store.client.log_batch(self.run_id, params=params)

    def _text(self, name: str, text: str) -> None:
        self.store.client.log_text(self.run_id, text, name)

    def on_start(self, trainer: Trainer) -> None:
        """Log the data set and what is trained."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = trainer.data
        source = json.dumps({"data": data.name})
        dataset = Dataset(data.name, data.digest[:36], "code", source)
        entity = DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])
        self.store.client.log_inputs(self.run_id, datasets=[entity])
        for key, value in {
            "dataset.digest": data.digest,
            "dataset.images": f"{len(data.train)} + {len(data.validation or ())} + {len(data.test)}",
            "device": repr(trainer.net.device),
            "model": repr(trainer.net),
        }.items():
            self.store.client.set_tag(self.run_id, key, value)

    def on_step(self, report: StepReport) -> None:
        """Take the step's metrics."""
        self._steps.append((report.step, report.loss, report.accuracy))
        values = {"train/loss": report.loss, "train/acc": report.accuracy, "lr": report.lr}
        self._metrics.add(report.step, values)
        if self._system.due():
            self._metrics.add(report.step, self._system.sample())

    def on_epoch(self, report: EpochReport) -> None:
        """Take the epoch's metrics, and the best so far."""
        values = {**report.metrics, "epoch": float(report.epoch)}
        if report.best:
            best = {key: report.metrics[key] for key in ("val/acc", "test/acc") if key in report.metrics}
            values |= {f"best/{key.replace('/', '_')}": value for key, value in best.items()}
            values["best/epoch"] = float(report.epoch)
        self._metrics.add(report.step, values)

    def on_end(self, trainer: Trainer, result: Result) -> None:
        """Log the result, pictures, weights and the model."""
        final = {"final/test_acc": result.test_accuracy, "final/test_loss": result.test_loss, "seconds": result.seconds}
        if result.steps_to_target is not None and result.seconds_to_target is not None:
            final |= {"steps_to_target": float(result.steps_to_target), "seconds_to_target": result.seconds_to_target}
        self._metrics.add(result.steps, {**final, **self._system.sample()})
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "weights"
            weights.mkdir()
            save_state(trainer.net.state_dict(), weights / "final.safetensors")
            save_state(trainer.best_state, weights / "best.safetensors")
            (weights / "network.json").write_text(json.dumps(describe(trainer), indent=1))
            self.store.client.log_artifacts(self.run_id, str(weights), "weights")
            self._pictures(trainer, result)
            log_model(self.store, self.run_id, trainer, weights, final)

    def _pictures(self, trainer: Trainer, result: Result) -> None:
        """Learning curves, confusion matrix and worst mistakes, of the best weights."""
        net, data = trainer.net, trainer.data
        last = net.state_dict()
        net.load_state_dict(trainer.best_state)
        probabilities = softmax(net.device.host(net.predict(data.test.x)))
        net.load_state_dict(last)
        guess = np.argmax(probabilities, axis=1)
        title = f"{self.name}: test accuracy {result.test_accuracy:.4f} (epoch {result.best_epoch})"
        for name, figure in {
            "learning_curves.png": plots.learning_curves(self._steps, result.history, title),
            "confusion_matrix.png": plots.confusion_matrix(data.test.t, guess, data.classes),
            "worst_mistakes.png": plots.worst_mistakes(data.test.x, data.test.t, probabilities, data.classes),
        }.items():
            self.store.client.log_figure(self.run_id, figure, name)

    def hint(self) -> str:
        """Where the run is and how to look at it."""
        return view_hint(self.store.uri, self.store.experiment_id, self.run_id)
