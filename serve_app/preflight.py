"""What the service stands on, looked at before it starts: Ray's token mode, ports, file modes, TLS.

Each `Finding` is printed at the start and shown by /readyz. One that is not fine ends the start, unless the config says
`insecure: true`.
"""

import logging
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from safemirage.config.loading.load import ConfigError
from safemirage.config.serve import ServeConfig, is_loopback
from safemirage.settings import Settings

_log = logging.getLogger(__name__)
_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    what: str
    fine: bool
    found: str
    way_out: str = ""


def check_start(config: ServeConfig, settings: Settings) -> tuple[Finding, ...]:
    """What was found.

    Raises:
        ConfigError: something is not fine, and the config does not say that this is wanted.
    """
    findings = (_ray_token(), _transport(config), _files(settings), _ports())
    for one in findings:
        _log.log(logging.INFO if one.fine else logging.WARNING, "%s: %s", one.what, one.found)
    open_ones = [one for one in findings if not one.fine]
    if open_ones and not config.insecure:
        lines = [f"{one.what}: {one.found}; {one.way_out}" for one in open_ones]
        raise ConfigError("\n".join([*lines, "or set insecure=true, if nobody else can get here"]))
    return findings


def _ray_token() -> Finding:
    """Ray runs code for whoever reaches its ports, unless it asks for its token."""
    mode = os.environ.get("RAY_AUTH_MODE", "disabled")
    return Finding(
        what="ray's token mode",
        fine=mode == "token",
        found=f"RAY_AUTH_MODE={mode}",
        way_out="export RAY_AUTH_MODE=token && ray get-auth-token --generate, before Ray starts",
    )


def _transport(config: ServeConfig) -> Finding:
    if is_loopback(config.host):
        return Finding(what="transport", fine=True, found=f"{config.host}: this machine only")
    return Finding(
        what="transport",
        fine=config.tls_elsewhere,
        found=f"{config.host}: reachable from other machines, "
        + ("behind a proxy with TLS" if config.tls_elsewhere else "in clear text"),
        way_out="set host=127.0.0.1, or tls_elsewhere=true where a proxy in front of it speaks TLS",
    )


def _files(settings: Settings) -> Finding:
    """Store, tokens and audit log are for the service's own user."""
    storage = settings.storage
    database = settings.store_url.database
    store = (
        [Path(database)] if settings.store_url.drivername.startswith("sqlite") and database else []
    )
    for path in store:
        # SQLite gives its journals the mode of the database, so a fresh one is made before anybody opens it.
        if not path.exists() and path.parent.is_dir():
            path.touch(mode=0o600)
    journals = [one.with_name(one.name + end) for one in store for end in ("-wal", "-shm")]
    for path in (*store, *journals):
        if path.exists() and _is_open(path) and path.stat().st_uid == os.geteuid():
            path.chmod(0o600)
    kept = [*store, *journals, storage.tokens, storage.audit, storage.files]
    wide = [path for path in kept if path.exists() and _is_open(path)]
    return Finding(
        what="files",
        fine=not wide,
        found=f"{', '.join(path.name for path in wide)}: other users may read it"
        if wide
        else "store, tokens and audit log are their owner's only",
        way_out="chmod 600 " + " ".join(map(str, wide)),
    )


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _ports() -> Finding:
    """Which ports of this machine others may reach. Ray opens its own on all addresses, which its token mode guards."""
    everywhere = sorted({port for address, port in listening() if not is_loopback(address)})
    shown = ", ".join(map(str, everywhere[:20])) + (" ..." if len(everywhere) > 20 else "")
    return Finding(
        what="ports",
        fine=True,
        found=f"{len(everywhere)} listen beyond the loopback: {shown}"
        if everywhere
        else "loopback only",
    )


def listening() -> list[tuple[str, int]]:
    """Address and port of every listening TCP socket of this machine; none where the system has no /proc."""
    found = []
    for table, family in (("/proc/net/tcp", socket.AF_INET), ("/proc/net/tcp6", socket.AF_INET6)):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in (line.split() for line in lines):
            host, _, port = words[1].partition(":")
            if words[3] == _LISTEN:
                # Each group of four bytes stands in the machine's own order.
                data = bytes.fromhex(host)
                swapped = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
                found.append((socket.inet_ntop(family, swapped), int(port, 16)))
    return found
