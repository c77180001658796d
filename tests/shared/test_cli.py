"""The command as a person meets it."""

import subprocess
import sys


def test_what_libraries_warn_of_does_not_reach_the_terminal() -> None:
    """Those for DICOM quote values of headers."""
    code = (
        "import sys, warnings, subprocess, shared.cli as cli\n"
        "def run(app):\n"
        "    warnings.warn(\"Invalid value for VR UI: 'P-12345'\")\n"
        "    other = 'import warnings; warnings.warn(\"P-12345\")'\n"
        "    return subprocess.run([sys.executable, '-c', other]).returncode\n"
        "cli._run = run\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
