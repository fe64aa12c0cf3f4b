"""Search for good hyperparameters: `python scripts/search.py --help`."""

from nl_training.commands.search import main

if __name__ == "__main__":
    main()
