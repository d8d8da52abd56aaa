"""Reading a response: from encoded messages and statuses to results and errors."""
