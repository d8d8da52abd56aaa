"""Estimated durations in sentences."""


def rounded_seconds(seconds: float) -> str:
    """Return a number of seconds with three digits, or from 1000 on with all digits before the decimal point.

    >>> rounded_seconds(0.012345), rounded_seconds(1734.2), rounded_seconds(1e-6)
    ('0.0123', '1,734', '1e-06')
    """
    return f"{seconds:,.0f}" if seconds >= 999.5 else f"{seconds:.3g}"
