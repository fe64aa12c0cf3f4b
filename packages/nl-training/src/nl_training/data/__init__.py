"""Image data sets: read, verified, split, normalised, and cut into batches. Knows neither Hydra nor MLflow."""

from nl_training.data.batches import EpochBatches, batches, epoch_order
from nl_training.data.catalog import NAMES, load
from nl_training.data.dataset import Dataset, Normalization, Split
from nl_training.data.images import read_image

__all__ = ["NAMES", "Dataset", "EpochBatches", "Normalization", "Split", "batches", "epoch_order", "load", "read_image"]
