"""Search for good hyperparameters: `python scripts/search.py --help`."""

import sys

HELP = """Searches hyperparameters by validation accuracy with Optuna; each trial is a run under one parent in MLflow.

  python scripts/search.py                                      learning rate and weight decay of CNN3
  python scripts/search.py model=mlp optimizer=sgd,adam 'optimizer.lr=tag(log,interval(1e-4,1e-1))'
  python scripts/search.py search=random search.trials=100 trainer.epochs=10 'model.width=int(interval(16,64))'
  python scripts/search.py search.resume=latest                 go on with a search that was stopped or killed
  python scripts/search.py search.resume=ID search.trials=40    go on until 40 trials have finished

What has several values is searched: interval(LOW,HIGH), tag(log,interval(LOW,HIGH)), int(interval(LOW,HIGH)),
choice(A,B) or A,B. The other overrides are those of scripts/train.py; conf/search says what search.* means.
Needs the package optuna: python -m pip install -c constraints.txt optuna"""


def main():
    """Search as the command line says."""
    if {"--help", "-h"} & set(sys.argv):
        print(HELP)
        return
    from nl_training.config.cli import script
    from nl_training.search.search import search

    with script():
        search(sys.argv[1:])


if __name__ == "__main__":
    main()
