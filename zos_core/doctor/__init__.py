"""What this machine can do, found by trying: the probes behind `zos doctor`, and what they mean."""

__all__: list[str] = []
