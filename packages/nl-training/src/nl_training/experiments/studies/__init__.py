"""The studies of experiments that are not a single training, one module each."""
