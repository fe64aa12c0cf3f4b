"""Write a logged run's network as ONNX: `python scripts/export.py run=ID`."""

from nl_training.commands.export import main

if __name__ == "__main__":
    main()
