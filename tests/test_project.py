"""The project as a whole: style, floors, a light import, no private paths, README's commands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

RUFF = (sys.executable, "-m", "ruff", "--config", "output-format='concise'")

# A path of somebody's machine, but not a web address or a path inside the repository.
PRIVATE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|root|Users|work|tmp|mnt)/[\w.]")


def run(*command):
    """Run a command in the repository's root; its output and exit status."""
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def assert_passes(*command):
    result = run(*command)
    assert result.returncode == 0, result.stdout + result.stderr


def test_style():
    """Including: no print outside the command line (T20 in pyproject.toml)."""
    assert_passes(*RUFF, "check", ".")


def test_layout():
    assert_passes(*RUFF, "format", "--check", ".")


def test_floors():
    """The import contracts of pyproject.toml."""
    lint = "from importlinter.cli import lint_imports_command as lint; lint()"
    assert_passes(sys.executable, "-c", lint, "--no-cache")


def test_import_is_light():
    """SciPy and matplotlib wait until they are needed; the time is the best of three."""
    code = """if True:
        import json, sys, time
        start = time.process_time()
        import tinyvit
        seconds = time.process_time() - start
        heavy = sorted({"scipy", "matplotlib"} & set(sys.modules))
        print(json.dumps([seconds, heavy]))
    """
    runs = [json.loads(run(sys.executable, "-c", code).stdout) for _ in range(3)]
    assert runs[0][1] == []
    assert min(seconds for seconds, _ in runs) <= 0.35


def test_no_path_of_a_machine_in_tracked_files():
    listing = run("git", "ls-files", "-z")
    if listing.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():  # deleted and not yet committed
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{name}: {match[0]}" for match in PRIVATE_PATH.finditer(text)]
    assert found == []


def test_readme_commands_are_those_that_ci_runs():
    """Each is one line in a code block, and does all the set-up itself."""
    listing = run("bash", ".ci/run", "--list")
    assert listing.returncode == 0, listing.stderr
    tour, tests = listing.stdout.splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in (tour, tests):
        assert f"```bash\n{command}\n```" in readme
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert tour.endswith("/tinyvit tour")
    assert "/pytest" in tests
