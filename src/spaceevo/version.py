"""The package's version, for results to record."""

VERSION = "0.2.0"
