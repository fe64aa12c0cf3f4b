"""What the scripts do, one module a script."""
