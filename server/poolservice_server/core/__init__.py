"""The service core: requests as bytes in, responses as bytes out, without any gRPC object."""
