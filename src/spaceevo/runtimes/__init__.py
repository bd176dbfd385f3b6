"""Runtimes: what executes a network — how its files are written, loaded, timed and looked into."""
