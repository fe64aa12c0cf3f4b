"""Classify image files with a logged run: `python scripts/predict.py run=ID FILE...`."""

from nl_training.commands.predict import main

if __name__ == "__main__":
    main()
