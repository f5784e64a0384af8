"""Cython units: codecs with many tiny calls from Python. Only the facades in `native/` import them."""

__all__: list[str] = []
