"""The axis tracer: which axes of a model's tensors belong together, found by running it."""
