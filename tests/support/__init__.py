"""Helpers of the tests: what the system says of our processes, the subjects of the conformance suite, waiting for state."""
