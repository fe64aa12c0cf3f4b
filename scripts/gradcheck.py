"""Verify the gradients of any model under any config, or of a logged run: `python scripts/gradcheck.py --help`."""

from nl_training.commands.gradcheck import main

if __name__ == "__main__":
    main()
