"""The gRPC adapter: everything that touches grpcio, its event loop, its options and its private names."""
