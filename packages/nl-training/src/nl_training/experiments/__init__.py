"""Experiments of the textbook, of Node_Layer_Network and of papers: `conf/experiment/` has configs, `studies` code.

A study is a function from the config to figures and numbers; `runner.run_experiment` logs them.
"""
