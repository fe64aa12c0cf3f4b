"""The typed config: what the files in `conf/` may hold, and the command line that composes them."""
