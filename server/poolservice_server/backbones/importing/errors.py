"""The error of an import."""


class ImportFailed(Exception):
    """A model cannot be imported. The message is one sentence: which file, why, and what would be right."""
