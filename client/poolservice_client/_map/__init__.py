"""client.map: pool any number of inputs in bounded memory."""
