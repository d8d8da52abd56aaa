"""The Serve application: one deployment of replicas."""

from collections.abc import Mapping
from typing import Any

from ray import serve

from poolservice_server.ray.replica import Replica
from poolservice_server.ray.settings import RaySettings, check_honoured
from poolservice_server.settings import Settings, settings_of

DEPLOYMENT = "PoolService"

#: Serve's own log: no line for each call.
LOGGING = {"log_level": "WARNING", "enable_access_log": False}


def build(arguments: Mapping[str, Any]) -> Any:
    """Return the application for `args` of a deployment file, which has the keys of a settings file.

    Raises:
        SettingsError: a setting is wrong, unknown or without effect.
    """
    return application(settings_of(arguments, "args"))


def application(settings: Settings, **options: Any) -> Any:
    """Return the application.

    Args:
        settings: the server's settings, for each replica.
        options: further options of the deployment.

    Raises:
        SettingsError: a setting has no effect with Serve.
    """
    check_honoured(settings)
    deployment = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        # The replica's own queue refuses what it cannot take, and says when to retry. Serve's queue is for bursts.
        max_ongoing_requests=settings.max_calls,
        max_queued_requests=settings.max_calls,
        graceful_shutdown_timeout_s=settings.grace_period,
        **{"logging_config": LOGGING, **options},
    )
    return deployment.bind(settings)


def replica_options(settings: RaySettings) -> dict[str, Any]:
    """Return the options of the deployment for the number and the size of its replicas."""
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": settings.replica_cpus, "num_gpus": settings.replica_gpus}
    }
    if settings.max_replicas:
        options["autoscaling_config"] = {
            "min_replicas": settings.replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_ongoing_requests,
        }
    else:
        options["num_replicas"] = settings.replicas
    return options
