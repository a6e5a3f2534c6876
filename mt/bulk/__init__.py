"""Translation of more text than one call should hold: shards, whoever translates them, and what becomes of them."""
