"""Primitives: hashing and packing, the fetcher, kernel bindings, and the programs below the supervisor.

Every module beside this file is a typed facade. What is compiled (`_rust`, `cy`, `ffi`, `bin`) is reached through a
facade only. `native` imports nothing of ours.
"""

__all__: list[str] = []
