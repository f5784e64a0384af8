"""Containers: what is asked for, what is kept of them, and how one is launched."""

__all__: list[str] = []
