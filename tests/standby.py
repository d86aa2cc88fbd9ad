"""A server and its standby, for whoever has to see what becomes of one without the other."""

import os
import subprocess
from pathlib import Path

import psycopg

from rota.db.embedded import Cluster
from tests.conftest import SERVER_VERSION
from tests.faults.conftest import SETTINGS
from tests.waiting import wait_until


class Pair:
    """A server and its standby."""

    def __init__(self, folder: Path, synchronous: bool = False) -> None:
        names = {"synchronous_standby_names": "*"} if synchronous else {}
        self.folder = folder
        self.primary = Cluster(folder / "primary", SERVER_VERSION, SETTINGS)
        self.standby = Cluster(folder / "standby", SERVER_VERSION, SETTINGS)
        self._synchronous = names

    def join(self) -> None:
        """Copy the primary and start the copy as its standby."""
        backup = self.primary.bin / "pg_basebackup"
        source = self.primary.url().replace("/postgres?", "/?")
        subprocess.run(
            [backup, "-D", self.standby.data_dir, "-R", "-c", "fast", "-d", source], check=True
        )
        owner = self.primary.data_dir.stat()
        for path in [self.standby.data_dir, *self.standby.data_dir.rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        self.standby.start()
        with psycopg.connect(self.primary.url(), autocommit=True) as conn:
            for name, value in self._synchronous.items():
                conn.execute(f"alter system set {name} = '{value}'")
            conn.execute("select pg_reload_conf()")
            wait_until(
                lambda: (
                    conn.execute("select state from pg_stat_replication").fetchone()
                    == ("streaming",)
                )
            )

    def url(self, dbname: str) -> str:
        """Return a connection string that finds whichever of the two can be written to."""
        hosts = f"{self.primary.data_dir},{self.standby.data_dir}"
        return f"postgresql://postgres@/{dbname}?host={hosts}&target_session_attrs=read-write"

    def fail_over(self) -> Cluster:
        """Kill the primary for good, and return the standby that has taken its place."""
        self.primary.kill()
        with psycopg.connect(self.standby.url(), autocommit=True) as conn:
            assert conn.execute("select pg_promote()").fetchone() == (True,)
        return self.standby

    def stop(self) -> None:
        """Stop both."""
        self.primary.stop("immediate")
        self.standby.stop("immediate")
