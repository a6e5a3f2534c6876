"""The public name of the calibration measures: `mt.calibration.expected_calibration_error`."""

from mt.metrics.bins import expected_calibration_error as expected_calibration_error
