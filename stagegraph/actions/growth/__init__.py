"""Growth: changes of a model's shape, planned, prepared, committed and certified."""
