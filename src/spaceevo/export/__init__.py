"""Networks as files that runtimes execute, and the proof that they compute the same."""
