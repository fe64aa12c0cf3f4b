"""The mutation gate: every mutant of the nodes and the training step must be killed or listed as equivalent."""
