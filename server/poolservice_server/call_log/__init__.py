"""The call log: a line for each call that failed or was slow and, if wanted, for every call."""

from poolservice_server.call_log.call_log import CallLog

__all__ = ["CallLog"]
