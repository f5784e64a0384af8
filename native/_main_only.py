"""Importing this refuses a sub-interpreter with an ImportError: what is compiled serves the main interpreter alone."""

from __future__ import annotations

from native._rust import require_main_interpreter

__all__: list[str] = []

require_main_interpreter()
