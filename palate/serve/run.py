"""Runs the service: one process, one event loop, a few threads that compute. More processes may share a PostgreSQL store and a shelf."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palate.serve.settings import Settings
from palate.types import ConfigError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
SWITCH_SECONDS = 0.0005
"""How long a computing thread may keep the interpreter while another, such as the one that reads requests, wants it."""


def quiet_threads() -> None:
    """One thread a request, and no waiting in circles. Before numpy, polars and torch are loaded; what the environment says stays."""
    for name in THREADS:
        os.environ.setdefault(name, "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run(settings: Settings, bundle: Path, *, trust: Sequence[str] = (), started: Any = None) -> None:
    """Serves until it is told to stop (Ctrl-C, SIGTERM): what runs is answered, what waits is on the disk.

    started: called with the URL when the port is bound. Errors: ConfigError for an open bind without keys, or a port that is taken.
    """
    settings.check()
    import uvicorn

    from palate.serve import records
    from palate.serve.app import create
    from palate.serve.limits import protocol

    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(50_000, 20, 50)
    listener = bind(settings)
    try:
        app = create(settings, bundle, trust=trust)
        records.configure()
        config = uvicorn.Config(
            app,
            http=protocol(head_seconds=settings.head_seconds),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=17,  # longer than anybody waits for a store that hangs
        )
        server = uvicorn.Server(config)
        if started is not None:
            host, port = listener.getsockname()[:2]
            started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve([listener]))
    finally:
        listener.close()


def bind(settings: Settings) -> socket.socket:
    """A listening socket. ConfigError if the port is taken or the host is none of this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"serve: {settings.host}: no address of this machine ({error.strerror or error})") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"serve: {settings.host}:{settings.port}: cannot listen there ({error.strerror}); is it running already? try --port 0"
        ) from None
    return listener
