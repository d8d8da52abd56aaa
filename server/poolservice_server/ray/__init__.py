"""PoolService on Ray Serve: the same methods, messages and errors, computed by replicas on one machine or many.

    application   the Serve application, which a deployment file names as `poolservice_server.ray.application:build`
    replica       one replica: the core, without a gRPC server of its own
    proxy         the methods in Serve's gRPC proxy: deadlines, statuses, streams
    settings      the flags of `poolservice-server ray`, and the server's settings that Serve cannot honour
    command       `poolservice-server ray`: starts Ray, deploys the application, stops both

This module imports nothing: Serve's proxies import `proxy`, and need neither torch nor the settings.
"""
