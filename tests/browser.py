"""Find a browser for the tests, or say how to get one.

`python -m tests.browser` looks for Chromium or Chrome, lets Playwright install its own
when there is none, and otherwise says what to do.  Without a browser it fails where
CI=true; elsewhere the tests that need one are left out, by name, in pytest's summary.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

COMMANDS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)
HOW_TO_GET_ONE = """\
No browser was found, so the tests of the built book cannot run. Any one of these helps:
  apt-get install chromium             on Debian and Ubuntu, as root
  python -m playwright install chromium
  DIFFEDU_BROWSER=/path/to/chrome      if there is one in an unusual place"""
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")

# What a browser does of its own accord over the network would look like a request by
# the book; names other than this machine's do not resolve.
ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
if hasattr(os, "geteuid") and os.geteuid() == 0:
    ARGUMENTS.append("--no-sandbox")  # Chromium refuses a sandbox to root


def find() -> str | None:
    """The path of a browser, or None."""
    named = os.environ.get("DIFFEDU_BROWSER")
    if named:
        return named if Path(named).is_file() else None
    for command in COMMANDS:
        if found := shutil.which(command):
            return found
    for application in APPLICATIONS:
        if Path(application).is_file():
            return application
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


def main() -> int:
    found = find()
    if found is None:
        print("No browser found; asking Playwright to install one.", flush=True)
        install = [sys.executable, "-m", "playwright", "install", "chromium"]
        subprocess.run(install, check=False)
        found = find()
    if found is None:
        print(HOW_TO_GET_ONE)
        return int(IN_CI)
    print(f"Browser: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
