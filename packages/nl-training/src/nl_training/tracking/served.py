"""The code of a logged model: MLflow runs this file to serve it. It needs nl-models and nothing of nl-training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedNetwork(PythonModel):
    """Pixels (N, C, H, W) in the range that they had in the data set in, probabilities (N, K) out."""

    def load_context(self, context: Any) -> None:
        """Build the network again and read its weights."""
        from nl_models import build

        spec = json.loads(Path(context.artifacts["network"]).read_text())
        self.net = build(**spec["network"])
        self.net.load(context.artifacts["weights"])
        self.mean = np.reshape(spec["mean"], (1, -1, 1, 1)).astype(np.float32)
        self.std = np.reshape(spec["std"], (1, -1, 1, 1)).astype(np.float32)
        self.range = spec["pixels"]["range"] if spec["pixels"] else None

    # MLflow reads type hints as the model's schema, which the signature tells already.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """The probabilities; `MlflowException` where pixels are of another range."""
        pixels = np.asarray(model_input["pixels"] if isinstance(model_input, dict) else model_input, dtype=np.float32)
        self._check(pixels)
        logits = self.net.predict((pixels - self.mean) / self.std)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def _check(self, pixels: Any) -> None:
        """Refuse pixels beyond the data set's range by a tenth of it, and those of 0 to 1 where it is 0 to 255."""
        if self.range is None or not pixels.size:
            return
        (low, high), least, most = self.range, pixels.min(), pixels.max()
        margin = (high - low) / 10
        beyond = not low - margin <= least <= most <= high + margin  # NaN is beyond too
        if beyond or (high >= 100 and 0 <= least < most <= 1):
            given = f"{least:g} to {most:g}"
            raise MlflowException.invalid_parameter_value(f"pixels must be {low:g} to {high:g}, given are {given}")


set_model(ServedNetwork())
