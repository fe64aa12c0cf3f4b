"""The experiments that are no plain training, one module each."""
