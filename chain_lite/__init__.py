"""The ledger: codec, state machine, light client, wallet and settlement. Nothing is built here yet.

The package exists so that the layers of the import contract are whole; it is not part of the wheel.
"""

__all__: list[str] = []
