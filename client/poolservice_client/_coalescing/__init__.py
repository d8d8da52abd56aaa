"""Coalescing: sending small concurrent `pool` calls of one client in one message."""
