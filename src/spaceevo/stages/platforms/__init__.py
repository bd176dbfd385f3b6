"""Platforms: where block latencies come from — a table, this machine, a phone, a predictor package."""
