"""Train a network: `python scripts/train.py --help`."""

from nl_training.commands.train import main

if __name__ == "__main__":
    main()
