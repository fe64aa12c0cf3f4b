"""The code of a logged model: MLflow runs this file to serve it. It needs nl-models and nothing of nl-training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedNetwork(PythonModel):
    """Pixels (N, C, H, W) as they were in the data set in, probabilities (N, K) out."""

    def load_context(self, context: Any) -> None:
        """Build the network again and read its weights."""
        from nl_models import build

        spec = json.loads(Path(context.artifacts["network"]).read_text())
        self.net = build(**spec["network"])
        self.net.load(context.artifacts["weights"])
        self.mean = np.reshape(spec["mean"], (1, -1, 1, 1)).astype(np.float32)
        self.std = np.reshape(spec["std"], (1, -1, 1, 1)).astype(np.float32)

    # MLflow reads type hints as the model's schema, which the signature tells already.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """The probabilities."""
        pixels = model_input["pixels"] if isinstance(model_input, dict) else model_input
        logits = self.net.predict((np.asarray(pixels, dtype=np.float32) - self.mean) / self.std)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


set_model(ServedNetwork())
