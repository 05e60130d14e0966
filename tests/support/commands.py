"""Commands as users give them, in this process and in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.support.cohort import SETTINGS
from wsi_ats.cli.main import app


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


TRAINING = options(*SETTINGS)


def run(*arguments: str | Path, status: int = 0) -> Result:
    """A command in this process; its status is checked, and that it speaks to people in plain text."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output, "escape codes where there is no terminal"
    return result


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    program = [sys.executable, "-c", "from wsi_ats.cli.main import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(program, env=environment, **pipes)


def send_at(process: subprocess.Popen[str], line: str, number: int) -> str:
    """Send a signal as soon as the process says a line that begins with `line`; what it says after that."""
    assert process.stdout is not None
    said = []
    for said_now in process.stdout:
        said.append(said_now)
        if said_now.startswith(line):
            process.send_signal(number)
            break
    else:
        pytest.fail(f"never said {line!r}: {''.join(said)}")
    with process:  # waits, and closes the pipe
        return process.stdout.read()
