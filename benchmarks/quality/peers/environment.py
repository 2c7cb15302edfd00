"""Make the peers' virtual environment, once: nothing of theirs enters steerec's own."""

import os
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def default_env() -> Path:
    """A folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "steerec" / "peers-env"


def ready_env(folder: Path, requirements: Path = REQUIREMENTS) -> Path:
    """The environment's Python; installs unless these very requirements are there already."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    marker, wanted = folder / "installed.txt", requirements.read_text("utf-8")
    if python.exists() and marker.exists() and marker.read_text("utf-8") == wanted:
        return python
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    torch = next(line for line in wanted.splitlines() if line.startswith("torch=="))
    subprocess.run([*pip, torch], check=True)  # alone, so that no other build of it is fetched
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    marker.write_text(wanted, "utf-8")
    return python


if __name__ == "__main__":
    print(ready_env(Path(sys.argv[1]) if len(sys.argv) > 1 else default_env()))
