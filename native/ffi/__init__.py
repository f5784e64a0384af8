"""cffi units (API mode): what the supervisor itself asks the kernel. Only the facades in `native/` import them."""

__all__: list[str] = []
