"""Networks as files, and the proof that every file computes what was trained."""
