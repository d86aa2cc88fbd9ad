"""Renews what the pages take from npm: `make vendor`, after a new version in a vendor.json."""

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.ui.test_vendor import LISTS


def main() -> None:
    """Fetch each file of the lists, and note what it is."""
    for listed in LISTS:
        files = json.loads(listed.read_text())
        for file in files:
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(
                    ["npm", "pack", "--silent", f"{file['package']}@{file['version']}"],
                    cwd=folder,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                [packed] = Path(folder).glob("*.tgz")
                with tarfile.open(packed) as archive:
                    content = archive.extractfile(f"package/{file['path']}").read()
            (listed.parent / file["file"]).write_bytes(content)
            file["sha256"] = hashlib.sha256(content).hexdigest()
        listed.write_text(json.dumps(files, indent=2) + "\n")


if __name__ == "__main__":
    main()
