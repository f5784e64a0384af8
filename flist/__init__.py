"""Images: content-addressed root file systems that are fetched while they run (docs/spec/flist-v1.md)."""

__all__: list[str] = []
