"""Image data sets: reading, verification, splits, normalisation and batches. Uses neither Hydra nor MLflow."""

from nl_training.data.batches import EpochBatches, batches, epoch_order
from nl_training.data.catalog import READERS, RunData, load, load_test
from nl_training.data.dataset import Dataset, Normalization, Source, Split
from nl_training.data.images import read_image
from nl_training.data.pixels import PixelFormat

__all__ = [
    "READERS",
    "Dataset",
    "EpochBatches",
    "Normalization",
    "PixelFormat",
    "RunData",
    "Source",
    "Split",
    "batches",
    "epoch_order",
    "load",
    "load_test",
    "read_image",
]
