"""Latency of blocks and networks: measured, kept in tables, predicted."""
