"""Growth in width: units for a space."""
