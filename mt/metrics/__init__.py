"""How true probabilities are: streaming measures, which tokens of a translation are right, recalibration.

The maps are in `mt.metrics.maps`, which needs torch; nothing here imports it by itself.
"""

from mt.metrics.bins import CalibrationBins, expected_calibration_error, sweep_calibration_error
from mt.metrics.classes import ClassMeasures
from mt.metrics.labels import Edits, align, align_in_order, token_labels
from mt.metrics.measures import (
    FREQUENCY_BORDERS,
    POSITION_BORDERS,
    SOURCE_LENGTH_BORDERS,
    Breakdown,
    Measures,
    paired_difference,
)
from mt.metrics.words import word_confidence, words_of_tokens

__all__ = [
    "FREQUENCY_BORDERS",
    "POSITION_BORDERS",
    "SOURCE_LENGTH_BORDERS",
    "Breakdown",
    "CalibrationBins",
    "ClassMeasures",
    "Edits",
    "Measures",
    "align",
    "align_in_order",
    "expected_calibration_error",
    "paired_difference",
    "sweep_calibration_error",
    "token_labels",
    "word_confidence",
    "words_of_tokens",
]
