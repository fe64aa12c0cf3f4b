"""One MLflow run: parameters, metrics, artifacts, model and status."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_nodes import UserError
from nl_training.interrupts import Interrupts, status_of
from nl_training.tracking import provenance
from nl_training.tracking.links import resume_command, view_hint
from nl_training.tracking.metrics import MetricBuffer
from nl_training.tracking.parent_run import PARENT, runs_in_this_process
from nl_training.tracking.process import PROCESS, this_process
from nl_training.tracking.remainder import make, postpone, write_results
from nl_training.tracking.scores import Scores, best_probabilities
from nl_training.tracking.store import Store
from nl_training.tracking.system import SystemMetrics
from nl_training.tracking.tracker import Tracker
from nl_training.training.callbacks import Result, StepReport, TrainingState
from nl_training.training.progress_bar import activity
from nl_training.viz import plots

if TYPE_CHECKING:
    from nl_nodes.verify import Certificate
    from nl_training.verification import Outcome

log = logging.getLogger(__name__)

CONFIG = "config.yaml"  # the file with the run's config, from which it is resumed
LONGEST_ERROR = 200  # characters of the tag; the whole error is a file


class MLflowTracker(Tracker):
    """Logs a training; as a context, closes its run as FINISHED, FAILED or KILLED.

    Args:
        store: the run's store.
        config: the whole resolved config, nested.
        name: the run's name.
        text: the config as YAML, logged as a file.
        run_id: the ID of the run to resume, "" for a new one.
        draw: whether to log a drawing of the node graph.
        profile: whether to log the cost of each node in a step.
        tags: additional tags of the run.
        pictures: when to make the pictures: "now" as the run ends, "later" at the end of the sweep if its jobs run one
            after the other in this process, or "never".
        model: the same for the MLflow model.
    """

    def __init__(
        self,
        store: Store,
        config: Mapping[str, Any],
        name: str,
        text: str,
        run_id: str = "",
        draw: bool = False,
        profile: bool = False,
        tags: Mapping[str, str] | None = None,
        pictures: str = "now",
        model: str = "now",
    ) -> None:
        self.store, self.config, self.name, self.text = store, config, name, text
        self.run_id, self.draw, self.profile, self.tags = run_id, draw, profile, dict(tags or {})
        self._when = {"pictures": pictures, "model": model}
        self._interrupts = Interrupts()
        self._steps: list[tuple[int, float, float]] = []
        self._certificate: Certificate | None = None

    def __enter__(self) -> MLflowTracker:
        self._interrupts.__enter__()
        self._interrupts.hold()
        try:
            self._open()
            self._interrupts.release()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)

    def _open(self) -> None:
        client, tags = self.store.client, {**self.tags, PROCESS: this_process()}
        if self.run_id:
            self._set_tags(tags)
            client.update_run(self.run_id, status="RUNNING")
        else:
            tags |= provenance.tags()
            if parent := os.environ.get(PARENT):
                tags["mlflow.parentRunId"] = parent
            self.run_id = client.create_run(self.store.experiment_id, tags=tags, run_name=self.name).info.run_id
        if "later" in self._when.values() and not runs_in_this_process(self.store):
            self._when = {part: "now" if when == "later" else when for part, when in self._when.items()}
        logged = client.get_run(self.run_id).data
        if "error" in logged.tags:  # of an earlier process
            client.delete_tag(self.run_id, "error")
        points = (point for key in logged.metrics for point in client.get_metric_history(self.run_id, key))
        self._metrics = MetricBuffer(client, self.run_id, {(point.key, point.step) for point in points})
        self._system = SystemMetrics()
        provenance.log_params(client, self.run_id, self.config, logged.params)
        try:
            if self.store.text(self.run_id, CONFIG) != self.text:  # a kill while it is rewritten would spoil it
                client.log_text(self.run_id, self.text, CONFIG)
            client.log_text(self.run_id, provenance.packages(), "packages.txt")
        except Exception as error:  # each kind of artifact store raises its own
            where, reason = client.get_run(self.run_id).info.artifact_uri, str(error).strip().splitlines()[0]
            raise UserError(f"the run's artifacts cannot be written to {where}: {reason}") from error

    def _close(self, error: BaseException | None) -> None:
        """End the run; an error of the store must not hide the one that ended the training."""
        self._interrupts.hold()
        try:
            if self.run_id:
                self._end(error)
        except Exception as failure:
            reason = str(failure).splitlines()[0]
            text = f"the run {self.run_id} could not be closed in {self.store.uri}: {reason}"
            text += f"; {resume_command(self.store.uri, self.run_id)} sends the missing data"
            if error is None:
                raise UserError(text) from failure
            log.warning(text)
        finally:
            self._interrupts.__exit__(None, error, None)

    def _end(self, error: BaseException | None) -> None:
        client, status = self.store.client, status_of(error)
        try:
            self._metrics.flush()
            if error is not None:
                client.set_tag(self.run_id, "error", f"{type(error).__name__}: {error}"[:LONGEST_ERROR])
                if status == "FAILED":
                    client.log_text(self.run_id, "".join(format_exception(error)), "error.txt")
        except Exception:
            # A run without its metrics is not finished.
            status = "FAILED" if error is None else status
            raise
        finally:
            client.set_terminated(self.run_id, status)

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags in one request: each costs a write to the disk."""
        from mlflow.entities import RunTag

        self.store.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_verification(self, outcome: Outcome) -> None:
        """Log the certificate, a plot of its residuals, and its status as tags."""
        client = self.store.client
        self._set_tags(outcome.tags)
        self._certificate = outcome.certificate
        if outcome.certificate is not None:
            client.log_text(self.run_id, outcome.certificate.text(), "verification/certificate.json")
            if self._when["pictures"] == "now":
                picture = plots.residuals(outcome.certificate, self.name)
                client.log_figure(self.run_id, picture, "verification/residuals.png")

    def on_start(self, trainer: TrainingState) -> None:
        """Log the data set, the model with its summary, and the device."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = trainer.data
        source = json.dumps({"data": data.name})
        dataset = Dataset(data.name, data.digest[:36], "code", source)
        entity = DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])
        self.store.client.log_inputs(self.run_id, datasets=[entity])
        self._set_tags(
            {
                "dataset.digest": data.digest,
                "dataset.images": f"{len(data.train)} + {len(data.validation or ())} + {len(data.test)}",
                "dataset.pixels": str(data.pixels or "unknown"),
                "device": repr(trainer.net.device),
                "model": repr(trainer.net),
            }
        )
        self.write("summary.txt", str(trainer.net.summary(trainer.batch_size)))
        self._interrupts.hold()

    def stop_request(self) -> BaseException | None:
        """Return the exception of a signal received during the last step."""
        return self._interrupts.take_pending()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics; they are sent with a checkpoint that has them."""
        self._metrics.add(step, metrics)

    def write(self, name: str, text: str) -> None:
        """Log a text file."""
        self.store.client.log_text(self.run_id, text, name)

    def on_step(self, report: StepReport) -> None:
        """Record the step's metrics and the system's."""
        self._steps.append((report.step, report.loss, report.accuracy))
        super().on_step(report)
        if self._system.due():
            self.add(report.step, self._system.sample())

    def on_result(self, result: Result) -> None:
        """Record the final metrics."""
        super().on_result(result)
        self.add(result.steps, self._system.sample())

    def on_end(self, trainer: TrainingState, result: Result) -> None:
        """Log the weights, and make or postpone pictures and model."""
        self._interrupts.release()
        with tempfile.TemporaryDirectory() as name, activity("saving weights, pictures and model"):
            folder = Path(name)
            probabilities = best_probabilities(trainer)
            self.log_scores(result.steps, Scores.of(trainer.data.test.t, probabilities, trainer.data.classes))
            write_results(folder, trainer, result, probabilities, self.name, self._steps)
            self._log_weights(trainer, folder)
            if self.draw:
                self._draw(trainer)
            if self.profile:
                self._profile(trainer)
            self._metrics.flush()
            make(self.store, self.run_id, folder, self._parts("now"))
            if later := self._parts("later"):
                postpone(self.run_id, folder, later, self._certificate)

    def _parts(self, when: str) -> list[str]:
        """Return what is made at this time."""
        return [part for part, chosen in self._when.items() if chosen == when]

    def _log_weights(self, trainer: TrainingState, folder: Path) -> None:
        """Log the best weights of `folder`, the last and the averaged ones, with what rebuilds the network."""
        client = self.store.client
        with tempfile.TemporaryDirectory() as name:
            trainer.net.save(Path(name) / "final.safetensors")
            if trainer.average is not None:
                trainer.average.net.save(Path(name) / "ema.safetensors")
            client.log_artifacts(self.run_id, name, "weights")
        for file in ("best.safetensors", "network.json"):
            client.log_artifact(self.run_id, str(folder / file), "weights")

    def on_saved(self, facts: Mapping[str, Any]) -> None:
        """Allow the points in the checkpoint to be sent."""
        self._metrics.mark_saved(facts["made"])

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the pending points, and loss and accuracy of each step."""
        points, facts = self._metrics.state()
        return {**points, "curve": np.array(self._steps, np.float64).reshape(-1, 3)}, facts

    def load_state(self, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self._metrics.load_state(arrays, facts)
        self._steps = [(int(step), loss, accuracy) for step, loss, accuracy in arrays["curve"].tolist()]

    def _draw(self, trainer: TrainingState) -> None:
        """Log a drawing of the node graph, run on the first training images."""
        from nl_training.viz.graph import capture_training, page, svg

        diagram = capture_training(trainer.net, trainer.data, self._certificate)
        for name, text in (("graph.svg", svg(diagram)), ("graph.html", page(diagram))):
            self.store.client.log_text(self.run_id, text, f"drawing/{name}")

    def _profile(self, trainer: TrainingState) -> None:
        """Log the cost of each node in a step on the first training images."""
        from nl_training.viz.profile import artifacts

        part, count = trainer.data.train, trainer.batch_size
        for name, artifact in artifacts(trainer.net, part.x[:count], part.t[:count]).items():
            if isinstance(artifact, str):
                self.store.client.log_text(self.run_id, artifact, name)
            else:
                self.store.client.log_figure(self.run_id, artifact, name)

    def hint(self) -> str:
        """Return where the run is and how to view it."""
        return view_hint(self.store.uri, self.store.experiment_id, self.run_id)
