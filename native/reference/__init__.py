"""Plain-Python twin of every kernel: the oracle of the tests, and what runs with ZOS_NATIVE=reference."""
