"""Hyperparameter search with Optuna: a study that outlives its process, its trials as runs under one parent."""
