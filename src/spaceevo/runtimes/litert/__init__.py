"""TFLite files and LiteRT, which executes them."""
