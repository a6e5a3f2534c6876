"""How good the translations are, and how far their probabilities can be trusted."""
