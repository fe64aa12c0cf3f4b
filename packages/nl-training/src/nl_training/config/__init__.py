"""The configuration: a typed schema with ranges, its check, and the command line that reads it.

`schema` says what a configuration holds, `resolve` checks one against it, `build` makes the objects it names, `cli`
runs a script. Nothing is imported here, so that `--help` and shell completion answer at once.
"""
