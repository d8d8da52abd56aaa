"""`map`: pooling any number of inputs in bounded memory."""
