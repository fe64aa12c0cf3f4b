"""Hyperparameter search with Optuna: a persistent study whose trials are runs nested under the search's run."""
