"""Templates: groups of stages that are known by name, with fields to fill in."""
