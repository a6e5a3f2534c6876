"""The Transformer encoder-decoder and its directory on disk."""
