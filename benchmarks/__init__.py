"""Benchmarks of freethreading beside its peers, always in the same run: `python -m benchmarks.primitives`."""
