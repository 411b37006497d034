"""Growth in depth: blocks for a stack."""
