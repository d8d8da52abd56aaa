"""The two public clients, blocking and asyncio."""
