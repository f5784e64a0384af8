"""Measures: what zos costs beside the field's best, in one run on one machine. `zos bench`, `make bench`."""
