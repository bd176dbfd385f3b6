"""Superspaces, their members and subnets as plain values; no torch, no Hydra."""
