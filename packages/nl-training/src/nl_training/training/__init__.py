"""Training loop: trainer, callbacks, checkpoints."""
