"""What answers are worth: metrics, intervals, thresholds and sets, in numpy alone."""
