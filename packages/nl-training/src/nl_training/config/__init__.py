"""Typed config: the schema of the files in `conf/`, and the command line that composes them."""
