"""The node: supervisor, containers, network, what its machine can do, and the verbs that reach it."""

__all__: list[str] = []
