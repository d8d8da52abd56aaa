"""The gRPC adapter: all of the server that imports grpcio, except tune's load generator and Serve's proxy.

    server               the gRPC server of one process: its methods, health, reflection, address, start and stop
    servicer             the methods of PoolService: gRPC calls to the core, outcomes to gRPC statuses
    abort                the end of a failed call, with its details
    health, channelz     gRPC's health service and its channelz service
    health_command       `poolservice-server health`; connection_fault says why a connection fails
    auth, tls            bearer tokens; the server's certificate and client certificates
    active_calls         the calls in progress, and how long each may wait for its caller
    caller               the name of the caller of a call
    send_pacing          the pace at which large responses are handed to gRPC
    connections          the server's sockets, closed before gRPC's core shuts down
    options              the options of the gRPC server, with the reason for each
    experiments          the environment variable that selects parts of gRPC's core; set before grpc is imported
    merging_event_loop   uvloop's event loop, which merges the wake-ups of gRPC into one
    multi_accept_server  a faster grpc.aio server, built on private names of grpcio
    private_names        the table of those names, and the check that decides whether they can be used

This module imports nothing, so that `experiments` can run before grpc is imported.
"""
