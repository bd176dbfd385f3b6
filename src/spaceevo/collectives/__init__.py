"""Several processes of one run: who they are, averages over all of them, and work shared among them."""
