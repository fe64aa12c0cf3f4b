"""The mutation gate: small wrong changes to every node, each of which some check must notice."""
