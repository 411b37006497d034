"""Growth by new modules: branches, mixtures of experts, heads."""
