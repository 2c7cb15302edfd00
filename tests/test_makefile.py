"""make needs the network to install, once, and says so where it has none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
# Stands for the Python of the environment: writes down what is asked of it, refuses pip offline.
PYTHON = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/../asked"
test "$2" = pip && test -e "$(dirname "$0")/../offline" && { echo "no such host" >&2; exit 1; }
exit 0
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")


class House:
    """A copy of the files that decide what is installed, and an environment that only pretends."""

    def __init__(self, folder):
        self.folder, self.venv = folder, folder / "venv"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(HOUSE / name, folder)
        (self.venv / "bin").mkdir(parents=True)
        for name in ("python", "steerec"):
            (self.venv / "bin" / name).write_text(PYTHON)
            (self.venv / "bin" / name).chmod(0o755)

    def unplug(self):
        (self.venv / "offline").touch()

    def make(self, target):
        command = ["make", "-C", self.folder, target, f"VENV={self.venv}"]
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(command, capture_output=True, text=True, env=ours)

    def asked(self):
        """What the environment was asked since the last time, one line a command."""
        log = self.venv / "asked"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def test_what_is_installed_once_is_not_installed_again_when_sources_change(house):
    assert house.make("test").returncode == 0
    assert [line for line in house.asked() if "torch==" in line or ".[offline,dev]" in line]
    house.unplug()
    (house.folder / "src").mkdir()
    (house.folder / "src" / "new.py").write_text("x = 1\n")
    for target, command in (("test", "-m pytest -n auto --dist loadfile"), ("demo", "demo")):
        answer = house.make(target)
        assert answer.returncode == 0, answer.stderr
        assert house.asked() == [command]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
@pytest.mark.parametrize("target", ["test", "demo"])
def test_a_changed_list_of_packages_without_network_fails_with_the_reason(house, name, target):
    assert house.make(target).returncode == 0
    house.unplug()
    with (house.folder / name).open("a") as file:
        file.write("# one more\n")
    answer = house.make(target)
    assert answer.returncode == 2
    assert "no such host" in answer.stderr
    assert "pip could not install what pyproject.toml and constraints.txt ask for" in answer.stderr
    assert "network is needed" in answer.stderr
    house.asked()
    assert house.make(target).returncode == 2  # nothing was marked as installed


def test_the_first_installation_without_network_fails_with_the_reason(house):
    house.unplug()
    answer = house.make("demo")
    assert answer.returncode == 2
    assert "network is needed for the first make demo" in answer.stderr
