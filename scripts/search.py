"""Search for good hyperparameters: `python scripts/search.py --help`."""

import sys

HELP = """Searches hyperparameters by validation accuracy with Optuna; trials are MLflow runs nested under one parent.

  python scripts/search.py                                      learning rate and weight decay of CNN3
  python scripts/search.py model=mlp optimizer=sgd,adam 'optimizer.lr=tag(log,interval(1e-4,1e-1))'
  python scripts/search.py search=random search.trials=100 trainer.epochs=10 'model.width=int(interval(16,64))'
  python scripts/search.py search.resume=latest                 resume a search that was stopped or killed
  python scripts/search.py search.resume=ID search.trials=40    resume until 40 trials have finished

Keys with several values are searched: interval(LOW,HIGH), tag(log,interval(LOW,HIGH)), int(interval(LOW,HIGH)),
choice(A,B) or A,B. The other overrides are those of scripts/train.py; conf/search documents search.*.
Needs the package optuna: python -m pip install -c constraints.txt optuna"""


def main():
    """Run the search of the command line."""
    if {"--help", "-h"} & set(sys.argv):
        print(HELP)
        return
    from nl_training.commands.search import search
    from nl_training.config.cli import script

    with script():
        search(sys.argv[1:])


if __name__ == "__main__":
    main()
