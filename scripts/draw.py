"""Draw the node graph of a layer, any model under any config, or a logged run: `python scripts/draw.py --help`."""

from nl_training.commands.draw import main

if __name__ == "__main__":
    main()
