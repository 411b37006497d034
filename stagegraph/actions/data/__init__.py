"""Data: in which order batches come, and where a run stands among them."""
