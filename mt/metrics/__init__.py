"""How true probabilities are: streaming measures, which tokens of a translation are right, quality, recalibration."""
