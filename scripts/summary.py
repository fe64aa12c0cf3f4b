"""Print the layers of any model under any config: `python scripts/summary.py model=vgg16`."""

from nl_training.commands.summary import main

if __name__ == "__main__":
    main()
