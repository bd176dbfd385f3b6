"""Elastic leaves, blocks, stages and networks; one class serves the weight-sharing and the extracted form."""
