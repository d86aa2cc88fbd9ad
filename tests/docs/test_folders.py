"""The README of each top folder names each of its files, and nothing that is not there."""

import re
import subprocess
from fnmatch import fnmatchcase
from itertools import product
from pathlib import PurePosixPath

import pytest

from tests.docs.pages import ROOT

FOLDERS = ["app", "bench", "db", "demo", "examples", "rota", "tests", "worker"]
LONGEST = {"tests": 80}  # lines
BRACES = re.compile(r"\{([\w,]+)\}")


def tracked() -> list[PurePosixPath]:
    """Return the files of the project, those not yet added included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return [PurePosixPath(name) for name in listed if name and (ROOT / name).is_file()]


def files(folder: str) -> list[str]:
    """Return the files of a folder and all below it, as its README may name them."""
    return [
        path.relative_to(folder).as_posix()
        for path in tracked()
        if path.parts[0] == folder and path.name != "README.md"
    ]


def spelled_out(name: str) -> list[str]:
    """Return what a name with alternatives in braces stands for."""
    parts = BRACES.split(name)  # every other one is a list
    choices = [part.split(",") if place % 2 else [part] for place, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*choices)]


def named(folder: str) -> set[str]:
    """Return the files, folders (with a slash at the end) and patterns that a README names."""
    text = (ROOT / folder / "README.md").read_text()
    return {
        name
        for code in re.findall(r"`([^`\s]+)`", text)
        if re.fullmatch(r"[\w.*{},/-]*(/|\.(py|sql|md|txt|yaml|json|sh|mjs))", code)
        and not code.startswith(("../", "/"))
        for name in spelled_out(code)
    }


def names(name: str, file: str) -> bool:
    """Tell whether a name is that of a file, or of a folder that it is in."""
    if name.endswith("/"):
        return file.startswith(name)
    return name.count("/") == file.count("/") and fnmatchcase(file, name)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_of_a_folder_is_named_in_its_readme(folder):
    known = named(folder)

    assert [file for file in files(folder) if not any(names(name, file) for name in known)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_readme_names_nothing_that_is_not_there(folder):
    there = files(folder)

    assert [
        name for name in sorted(named(folder)) if not any(names(name, file) for file in there)
    ] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_readme_says_what_may_not_be_done_there_and_is_short(folder):
    lines = (ROOT / folder / "README.md").read_text().splitlines()
    prohibitions = lines[next(n for n, line in enumerate(lines) if "Not here" in line) :]

    assert len([line for line in prohibitions if line.startswith("- ")]) >= 2
    assert 5 <= len(lines) <= LONGEST.get(folder, 25)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_links_and_the_files_elsewhere_that_a_readme_names_are_there(folder):
    text = (ROOT / folder / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r"`(\.\./[\w./-]+)`", text)

    for target in targets:
        assert (ROOT / folder / target).exists(), target
    for page, heading in re.findall(r"\]\(([^)#\s]+)#([^)]+)\)", text):
        headings = re.findall(r"^#+ (.+)$", (ROOT / folder / page).read_text(), re.M)
        assert heading in [h.lower().replace(" ", "-") for h in headings], heading


def test_every_folder_with_a_program_of_ours_has_a_readme():
    top = {path.parts[0] for path in tracked() if path.suffix in (".py", ".sql")}

    assert {folder for folder in top if (ROOT / folder).is_dir()} == set(FOLDERS)
