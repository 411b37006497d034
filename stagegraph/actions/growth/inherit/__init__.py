"""Growth from other weights: a smaller model in a larger one."""
