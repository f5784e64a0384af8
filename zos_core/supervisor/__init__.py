"""The supervisor: all policy of a node; restartable at any instant, never in the path of a page fault, never forks."""

__all__: list[str] = []
