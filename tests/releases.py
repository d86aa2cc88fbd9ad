"""Rota as it was released before: checkouts of commits of this repository, to be run beside it."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]

# The last three that landed, the oldest first. Whoever lands a release adds it, and takes away the
# one before these: so long a worker and an API go on beside the functions of a newer release.
RELEASES = {
    "statistics": "50fb1f1b98ec500647d121e8f21761ef769812cb",
    "keys": "340408b32519b48b38dcc151a2c8af244d43da58",
    "workflows": "71051ec259ea202f997f25f8ac93753c452e8aed",
}
NAMES = list(RELEASES)


class MissingReleaseError(Exception):
    """A release that this clone does not have."""


class Release:
    """A checkout of a commit, laid out as its package is."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}"}

    def has(self, name: str) -> bool:
        """Tell whether this release came with, or after, another one."""
        return NAMES.index(self.name) >= NAMES.index(name)

    def start(
        self, *arguments: str, log: IO[bytes] | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start one of its programs, such as ``rota.worker``; handlers may be those of tests."""
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=self._environment | environment,
            stdout=log,
            stderr=log,
        )

    def deploy(self, url: str) -> None:
        """Bring a database to its state."""
        deployed = subprocess.run(
            [sys.executable, "-m", "rota.db.deploy", url],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        assert deployed.returncode == 0, deployed.stderr


def check_out(name: str, folder: Path) -> Release:
    """Lay a release out in a folder.

    Raises:
        MissingReleaseError: this clone does not have it.
    """
    commit = RELEASES[name]
    archive = git("archive", commit, "pyproject.toml", "app", "db", "demo", "rota", "worker")
    if archive.returncode:
        known = git("rev-parse", "--is-inside-work-tree").returncode == 0
        way = "the clone is shallow: git fetch --unshallow" if known else "this is no clone"
        raise MissingReleaseError(f"there is no commit {commit[:7]} of release {name} here; {way}")
    source, package = folder / "source", folder / "package"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(source, filter="data")
    places = tomllib.loads((source / "pyproject.toml").read_text())["tool"]["setuptools"]
    for module, place in sorted(places["package-dir"].items(), key=lambda item: len(item[0])):
        target = package / module.replace(".", "/")
        if not target.exists():
            shutil.copytree(source / place, target)
    return Release(name, package)


def git(*arguments: str | Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Ask git about this repository."""
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
