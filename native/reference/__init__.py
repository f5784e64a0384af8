"""Plain-Python twins of the native kernels: the oracle that the same tests run on (`ZOS_NATIVE=reference`)."""

__all__: list[str] = []
