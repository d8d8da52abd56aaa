"""Small concurrent calls combined into one message."""
