"""The service on Ray Serve: HTTP in front, checkpoints and evaluations behind it.

    safemirage serve CONFIG.yaml [a.b=c ...]

joins the cluster that RAY_ADDRESS names, or starts Ray in this process, and serves until interrupted. For
`serve deploy`, the import path is `serve_app.app:build` and its `args` are `config` and `storage`.
"""

import logging
import os
import secrets
import signal
import socket
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import ray
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client  # read in Ray 2.60: see _at_running_serve
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

from safemirage.config.loading.load import load_config
from safemirage.config.serve import ServeConfig
from safemirage.settings import Settings, read_settings
from safemirage.store.tokens import TokenFile
from serve_app.deployments import Access, Api, Evaluations
from serve_app.engines.checkpoints import checkpoints_class
from serve_app.http.auth import read_tokens
from serve_app.http.heads import proxy_environment
from serve_app.preflight import check_start

APP = "safemirage"
_START_TIMEOUT_S = 180.0
_MANY = 10_000
"""Requests that a replica may have in hand. Serve's default of 5 does not queue more but backs off, which costs half
the throughput; what a caller may send is bounded in the API instead."""


class ServiceError(RuntimeError):
    """The service did not come up."""


class BuildArgs(BaseModel):
    """`args` of a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    config: ServeConfig = ServeConfig()
    storage: str | None = None
    """The storage folder; by default what SAFEMIRAGE_STORAGE says."""
    instance: str = ""
    """Shown by /healthz, so that a starter can tell its own service from another on the same port."""


def build(args: BuildArgs) -> Application:
    """The application for `serve deploy`, with the settings of the process that builds it.

    Raises:
        ConfigError: there is no token although the config asks for them, or a setting cannot be used.
    """
    return application(args.config, read_settings(args.storage), instance=args.instance)


def application(config: ServeConfig, settings: Settings, *, instance: str) -> Application:
    """The application. Tokens are read here, and only their digests reach the replicas.

    Raises:
        ConfigError: there is no token although the config asks for them, or something that the service stands on is open
            to others.
    """
    tokens = read_tokens(config, TokenFile(settings.storage.tokens))
    access = Access(
        tokens=None if tokens is None else tokens.given,
        instance=instance,
        findings=check_start(config, settings),
    )
    options = {
        "max_ongoing_requests": _MANY,
        "max_constructor_retry_count": 3,
        # A replica that is replaced first ends what it was asked, however long that may take.
        "graceful_shutdown_timeout_s": config.limits.request_timeout_s + 10,
    }
    checkpoints = serve.deployment(
        checkpoints_class(config.checkpoints.models),
        name="Checkpoints",
        num_replicas=config.checkpoints.replicas,
        ray_actor_options={
            "num_cpus": config.checkpoints.cpus,
            "num_gpus": config.checkpoints.gpus,
        },
        **options,
    ).bind(config.checkpoints, settings)
    evaluations = serve.deployment(
        Evaluations,
        name="Evaluations",
        num_replicas=1,
        ray_actor_options={"num_cpus": config.evaluations.cpus},
        **options,
    ).bind(checkpoints, config, settings)
    api = serve.deployment(
        serve.ingress()(Api),
        name="Api",
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.cpus},
        **options,
    )
    return api.bind(checkpoints, evaluations, config, settings, access)


@dataclass(frozen=True, kw_only=True)
class RunningService:
    url: str
    owns_serve: bool
    """Whether Serve was started for this service alone."""

    def stop(self) -> None:
        """Ends the service; Serve itself too, if nothing else used it before."""
        if self.owns_serve:
            serve.shutdown()
        else:
            serve.delete(APP)


def start_service(config: ServeConfig, settings: Settings) -> RunningService:
    """Starts the service on the cluster that this process has joined, and waits until it answers.

    It outlives this process, until `stop` or the end of the cluster.

    Raises:
        ConfigError: there is no token although the config asks for them.
        ServiceError: the port is taken, or Serve runs on this cluster already under another address.
    """
    owns_serve = not serve.status().proxies
    if owns_serve:
        config = replace(config, port=_bindable(config.host, config.port))
    else:
        config = _at_running_serve(config)
    instance = uuid.uuid4().hex
    serve.start(
        http_options=HTTPOptions(host=config.host, port=config.port),
        controller_options={"runtime_env": {"env_vars": proxy_environment(config.limits)}},
    )
    serve.run(
        application(config, settings, instance=instance),
        name=APP,
        route_prefix="/",
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    url = f"http://{_reachable(config.host)}:{config.port}"
    _wait_until_answers(url, instance)
    return RunningService(url=url, owns_serve=owns_serve)


@contextmanager
def running_service(config: ServeConfig, settings: Settings) -> Iterator[str]:
    """The service's URL; the service is stopped on leaving."""
    service = start_service(config, settings)
    try:
        yield service.url
    finally:
        service.stop()


def _at_running_serve(config: ServeConfig) -> ServeConfig:
    """The config at the address of the Serve that runs already, which takes no other: what a starter that was killed
    left on a cluster, for instance. serve.status() does not say it, and the dashboard's API may not run."""
    client = _get_global_client()
    assert client is not None, "its status was asked for"
    options = client.get_serve_details()["http_options"]
    return replace(config, host=options["host"], port=options["port"])


def _wait_until_answers(url: str, instance: str) -> None:
    def instance_there() -> str:
        response = httpx.get(f"{url}/healthz", timeout=5).raise_for_status()
        return str(response.json().get("instance"))

    retrying = Retrying(
        retry=retry_if_exception_type((httpx.HTTPError, ValueError))
        | retry_if_result(lambda there: there != instance),
        stop=stop_after_delay(_START_TIMEOUT_S),
        wait=wait_fixed(0.1),
    )
    try:
        retrying(instance_there)
    except RetryError as error:
        last = error.last_attempt
        raise ServiceError(
            f"{url}: the service did not answer within {_START_TIMEOUT_S:g} s "
            f"({last.exception() if last.failed else 'another service answers there'}). If Serve runs on this cluster "
            "already, it keeps the host and port that it was started with"
        ) from error


def _bindable(host: str, port: int) -> int:
    """The port, which is free; for 0 a free one. Raises ServiceError where it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"port: {host}:{port} cannot be used ({error.strerror}); choose another, or port=0 for a free one"
            ) from error
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    if host in {"0.0.0.0", "::"}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _guard_own_ray(settings: Settings, arguments: Sequence[str]) -> None:
    """A Ray that this command starts by itself asks for a token. Ray reads that from the environment when it is imported,
    so the command starts once more."""
    if os.environ.get("RAY_ADDRESS") or "RAY_AUTH_MODE" in os.environ:
        return
    path = settings.storage.root / "ray-token"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    added = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    command = [sys.executable, "-m", "safemirage.cli", *arguments]
    os.execve(sys.executable, command, {**os.environ, **added})


def run_command(file: Path, overrides: Sequence[str]) -> int:
    """What `safemirage serve` does: serves until Ctrl-C or SIGTERM; returns its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    stopped = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopped)
    config = load_config(ServeConfig, file, overrides)
    settings = read_settings()
    read_tokens(config, TokenFile(settings.storage.tokens))
    _guard_own_ray(settings, ["serve", str(file), *overrides])
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "local"), logging_level="warning")
        with running_service(config, settings) as url:
            sys.stdout.write(f"{url}/  (API page: {url}/docs; storage: {settings.storage.root})\n")
            sys.stdout.flush()
            signal.sigwait(stopped)
    except ServiceError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        ray.shutdown()
    return 0
