"""PostgreSQL and Redis in containers, where a Docker engine answers."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import redis

DOCKER_POSTGRES = os.environ.get("PGLOUPE_TEST_POSTGRES_IMAGE", "postgres:18")
DOCKER_REDIS = os.environ.get("PGLOUPE_TEST_REDIS_IMAGE", "redis:8")

_DOCKER_SOCKET = Path("/var/run/docker.sock")
_PATIENCE_S = 60.0


def docker_answers() -> bool:
    """Whether a Docker engine can be used. At once where there is no socket, else the client's ping, 2 s at most."""
    if "DOCKER_HOST" not in os.environ and not _DOCKER_SOCKET.exists():
        return False
    import docker

    try:
        client = docker.from_env(timeout=2)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except Exception:  # the client lets errors of requests and urllib3 through
        return False
    finally:
        client.close()


def wait_until(attempt: Any, *errors: type[Exception]) -> None:
    """Try until it works; the last error after a minute."""
    end_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            attempt()
            return
        except errors:
            if time.monotonic() > end_s:
                raise
        time.sleep(0.05)


@contextlib.contextmanager
def postgres_container(settings: Mapping[str, str]) -> Iterator[str]:
    """URL of the superuser of a PostgreSQL in a container, until the end of the block."""
    from testcontainers.core.container import DockerContainer

    options = " ".join(f"-c {key}={value}" for key, value in settings.items())
    container = (
        DockerContainer(DOCKER_POSTGRES)
        .with_env("POSTGRES_PASSWORD", "superuser")
        .with_exposed_ports(5432)
        .with_command(f"postgres {options}")
    )
    with container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(5432)
        url = f"postgresql://postgres:superuser@{host}:{port}/postgres"
        # While the image sets the cluster up, its server listens on a Unix socket only.
        wait_until(lambda: psycopg.connect(url).close(), psycopg.OperationalError)
        yield url


@contextlib.contextmanager
def redis_container() -> Iterator[str]:
    """URL of a Redis in a container, until the end of the block."""
    from testcontainers.core.container import DockerContainer

    with DockerContainer(DOCKER_REDIS).with_exposed_ports(6379) as container:
        url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
        with redis.Redis.from_url(url) as client:
            wait_until(client.ping, redis.RedisError)
        yield url
