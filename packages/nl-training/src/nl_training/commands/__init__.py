"""The commands behind the scripts, one module per script."""
