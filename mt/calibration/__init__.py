"""How true probabilities are: streaming measures, and which tokens of a translation are right."""

from mt.calibration.bins import CalibrationBins, expected_calibration_error
from mt.calibration.labels import token_labels

__all__ = ["CalibrationBins", "expected_calibration_error", "token_labels"]
