"""Quantisation: LSQ+ maths, quantiser modules, and the integer program a quantised network stands for."""
