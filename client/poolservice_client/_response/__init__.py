"""From an encoded response or status to results and errors."""
