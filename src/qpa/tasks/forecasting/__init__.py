"""Series of measurements: the next value, forecast from the last ones by a small network."""
