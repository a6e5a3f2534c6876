"""From source ids to outputs: beam search, forced scoring, and the translation of streams of lines."""
