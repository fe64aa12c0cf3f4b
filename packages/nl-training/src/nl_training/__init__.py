"""Data, training, tracking and configuration: the experiments of Node_Layer_Network."""

from typing import TYPE_CHECKING, Any

from nl_training.notebook import register

if TYPE_CHECKING:
    from nl_training.training.fit import fit

__version__ = "0.1.0"

__all__ = ["fit"]

register()


def __getattr__(name: str) -> Any:
    """Import `fit` on first use: most commands need neither data sets nor the trainer to refuse a mistake."""
    if name == "fit":
        from nl_training.training.fit import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
