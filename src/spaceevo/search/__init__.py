"""Which space suits a device, and which subnet of it meets a latency: scores and the searches that use them."""
