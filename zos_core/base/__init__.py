"""What every part of zos stands on. The surface is the modules: importing one loads nothing of the others.

`zos --help` must not pay for an HTTP server, so nothing is imported here.
"""

__all__ = [
    "atomic_file",
    "cli",
    "client",
    "commands",
    "document",
    "endpoint",
    "errors",
    "frame",
    "keyring",
    "nonces",
    "openapi",
    "paths",
    "programs",
    "progress",
    "request_signature",
    "server",
    "threads",
    "verbs",
]
