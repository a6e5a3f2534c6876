"""From raw text to batches: reading, cleaning, subwords, the token store, batch plans."""
