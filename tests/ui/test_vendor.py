"""What others wrote and our pages carry is what they published."""

import hashlib
import json
from pathlib import Path

import pytest

from rota.app.ui.frame import STATIC

LISTS = [STATIC / "vendor" / "vendor.json", Path(__file__).with_name("vendor.json")]


@pytest.mark.parametrize("listed", LISTS)
def test_every_file_from_elsewhere_is_the_one_that_is_listed(listed: Path) -> None:
    files = json.loads(listed.read_text())
    assert files
    for file in files:
        content = (listed.parent / file["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"], file["file"]
        assert file["version"].encode() in content[:400] or file["file"].endswith(".min.css")


def test_no_file_from_elsewhere_is_unlisted() -> None:
    listed = {file["file"] for file in json.loads(LISTS[0].read_text())}
    there = {path.name for path in LISTS[0].parent.iterdir()} - {"vendor.json"}
    assert there - listed == {"LICENSE.pico", "LICENSE.uPlot"}
