"""Models of other programs in, ours out: Marian and CTranslate2."""
