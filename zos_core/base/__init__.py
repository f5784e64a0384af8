"""What every part of zos stands on. The surface is the modules: importing one loads nothing of the others.

`zos --help` must not pay for an HTTP server, so nothing is imported here.
"""

__all__ = [
    "atomic_file",
    "client",
    "document",
    "endpoint",
    "errors",
    "frame",
    "keyring",
    "openapi",
    "paths",
    "programs",
    "progress",
    "server",
    "threads",
    "verbs",
]
