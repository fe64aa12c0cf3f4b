"""The code of a logged model, which MLflow runs to serve it; it needs nl-models, but not nl-training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedNetwork(PythonModel):
    """Maps pixels (N, C, H, W) in the data set's range to probabilities (N, K)."""

    def load_context(self, context: Any) -> None:
        """Build the network and load its weights."""
        from nl_models import build

        spec = json.loads(Path(context.artifacts["network"]).read_text())
        self.net = build(**spec["network"])
        self.net.load(context.artifacts["weights"])
        self.mean = np.reshape(spec["mean"], (1, -1, 1, 1)).astype(np.float32)
        self.std = np.reshape(spec["std"], (1, -1, 1, 1)).astype(np.float32)
        self.range = spec["pixels"]["range"] if spec["pixels"] else None

    # Of the type hints that leave the schema to the signature; in fact MLflow passes named inputs, in a dict.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Any:
        """Return the probabilities; raise `MlflowException` if the pixels have another range."""
        pixels = np.asarray(model_input["pixels"] if isinstance(model_input, dict) else model_input, dtype=np.float32)
        self._check(pixels)
        logits = self.net.predict((pixels - self.mean) / self.std)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def _check(self, pixels: Any) -> None:
        """Refuse pixels outside the data set's range by over a tenth of it, and pixels of 0 to 1 if it is 0 to 255."""
        if self.range is None or not pixels.size:
            return
        (low, high), smallest, largest = self.range, pixels.min(), pixels.max()
        margin = (high - low) / 10
        outside = not low - margin <= smallest <= largest <= high + margin  # true for NaN
        if outside or (high >= 100 and 0 <= smallest < largest <= 1):
            given = f"{smallest:g} to {largest:g}"
            raise MlflowException.invalid_parameter_value(f"pixels must be {low:g} to {high:g}, got {given}")


set_model(ServedNetwork())
