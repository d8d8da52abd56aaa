"""A client's settings: addresses, credentials and limits, validated once when the client is created."""
