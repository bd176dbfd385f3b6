"""Platforms: where block latencies come from — a table, a runtime on this machine or a phone, a predictor package."""
