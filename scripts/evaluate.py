"""Evaluate a logged run on a test set: `python scripts/evaluate.py run=ID [data=... device=...]`."""

from nl_training.commands.evaluate import main

if __name__ == "__main__":
    main()
