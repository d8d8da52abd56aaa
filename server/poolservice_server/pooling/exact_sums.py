"""Which sums of whole numbers a float holds without rounding."""

#: float64 holds every whole number up to here.
WHOLE_IN_FLOAT64 = 2**53

#: float32 holds the sum of so many bytes.
BYTES_IN_FLOAT32 = 2**16
