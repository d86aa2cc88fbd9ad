"""PgBouncer, in front of a database of the tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.waiting import wait_until

SERVER_KEYS = ("host", "port", "dbname", "user", "password")


@contextmanager
def pooler(url: str, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a database behind PgBouncer in transaction mode, with two sessions."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    server = conninfo_to_dict(url)
    parts = [f"{key}={server[key]}" for key in SERVER_KEYS if server.get(key)]
    folder = Path(tempfile.mkdtemp(prefix="rota-bouncer-"))
    folder.chmod(0o755)
    (folder / "ini").write_text(
        f"[databases]\nbehind = {' '.join(parts)}\n"
        f"[pgbouncer]\nunix_socket_dir = {folder}\nlisten_addr =\nlisten_port = 6432\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nauth_type = any\n"
        "ignore_startup_parameters = options\n"  # of PGOPTIONS; a client with any is refused else
    )
    user = []
    if os.geteuid() == 0:  # which pgbouncer refuses; who owns the server's socket may enter there
        host = str(server.get("host", ""))
        owner = Path(host).owner() if host.startswith("/") else "nobody"
        shutil.chown(folder, owner)
        user = ["-u", owner]
    process = subprocess.Popen(
        [program, *user, str(folder / "ini")], stderr=(tmp_path / "bouncer.log").open("w")
    )
    try:
        wait_until(lambda: (folder / ".s.PGSQL.6432").exists() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "bouncer.log").read_text()
        yield f"postgresql://anyone@/behind?host={folder}&port=6432"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)
