"""Regularization by the training loop, besides weight decay."""

from __future__ import annotations

from dataclasses import dataclass

from nl_nodes import UserError
from nl_nodes.arguments import NOT_NEGATIVE, OPEN_FRACTION, POSITIVE, check_init


@check_init
@dataclass(frozen=True)
class Regularization:
    """Changes of the training that narrow the gap between training and test images; by default none.

    Attributes:
        augment: names of `nl_training.data.augment.AUGMENTATIONS`, applied in this order to training images.
        mixup: alpha of `nl_training.data.mixup`, 0 for none.
        clip_norm: the largest L2 norm of a step's gradient, without weight decay; None for no limit.
        ema: decay of `WeightAverage`; None for no average.
    """

    augment: tuple[str, ...] = ()
    mixup: float = 0.0
    clip_norm: float | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        """Validate the numbers."""
        NOT_NEGATIVE.check("Regularization", mixup=self.mixup)
        if self.clip_norm is not None:
            POSITIVE.check("Regularization", clip_norm=self.clip_norm)
        if self.ema is not None:
            OPEN_FRACTION.check("Regularization", ema=self.ema)
        if isinstance(self.augment, str):
            raise UserError(f"Regularization: augment is a tuple of names, such as ({self.augment!r},)")

    def __str__(self) -> str:
        """Return what is set, as text."""
        return ", ".join(f"{name}={value}" for name, value in vars(self).items() if value)
