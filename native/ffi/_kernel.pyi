from typing import Any

from _cffi_backend import FFI

ffi: FFI
lib: Any  # the functions that build_kernel.py declares; `native/kernel.py` gives them their types
