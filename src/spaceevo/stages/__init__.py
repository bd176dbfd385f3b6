"""Stages that do not train, as Hydra callbacks."""
