"""The textbook's and the ancestor's experiments: each a config in `conf/experiment/` and a function here.

A function takes the checked config and Hydra's, and gives figures and numbers; `runner.run_experiment` logs them.
"""
