"""How many tokens and requests a GPU's memory holds, from a model's config.json; runs no model."""
