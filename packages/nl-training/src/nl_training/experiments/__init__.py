"""Experiments of the textbook and of Node_Layer_Network: a config in `conf/experiment/` and a study in `studies`.

A study is a function from the config to figures and numbers; `runner.run_experiment` logs them.
"""
