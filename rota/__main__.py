"""The command ``rota``: each word is a program of its own; ``python -m rota`` is the same."""

import importlib
import sys
from importlib import metadata
from pathlib import Path

PROGRAMS = {
    "deploy": ("rota.db.deploy", "bring a database to the state of this version"),
    "worker": ("rota.worker.__main__", "run jobs"),
    "api": ("rota.app.__main__", "serve the REST interface and its Swagger page"),
    "run": ("rota.run", "database, API and one worker on this machine, to try Rota"),
    "token": ("rota.tokens", "create, list and revoke tokens of the API"),
    "doctor": ("rota.doctor", "say what is wrong with the installation"),
    "why": ("rota.why", "say why a job does not run"),
    "tail": ("rota.tail", "print each attempt as it ends"),
    "demo": ("rota.demo.__main__", "enqueue a hundred jobs in a running Rota and watch them"),
}


def usage() -> str:
    """Return what the command can do."""
    lines = [f"  {word:8} {what}" for word, (_, what) in PROGRAMS.items()]
    lines.append(f"  {'version':8} the versions of the package and of its functions")
    return "usage: rota COMMAND ...\n\n" + "\n".join(lines) + "\n\nrota COMMAND --help says more."


def version() -> str:
    """Return the package's version, and what ``rota.version()`` answers where it is deployed."""
    from rota.db.version import checkout_version

    try:
        package = metadata.version("rota")
    except metadata.PackageNotFoundError:
        package = "in a checkout"
    return f"rota {package}, functions {checkout_version()[:12]}"


def main() -> int:
    """Run the program that the first word names; return its exit code."""
    word, *arguments = sys.argv[1:] or ["help"]
    if word in PROGRAMS:
        here = str(Path.cwd())  # as with python -m: where the caller's handlers are
        if here not in sys.path:
            sys.path.insert(0, here)
        program = importlib.import_module(PROGRAMS[word][0])
        return program.main(arguments)
    if word in ("version", "--version"):
        print(version())
        return 0
    if word in ("help", "--help", "-h"):
        print(usage())
        return 0
    print(f"rota: there is no command {word!r}\n\n{usage()}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
