"""client.map: any number of items, bounded memory, and each one's own outcome."""
