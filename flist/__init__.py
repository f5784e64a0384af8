"""Images: content-addressed root file systems that are fetched while they run. The format is `docs/spec/flist-v1.md`."""
