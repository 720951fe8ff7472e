"""A headless Chromium, driven by selenium: `make pictures` gets both."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["HAS_BROWSER", "browser", "set_dark"]

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
HAS_BROWSER = bool(CHROMIUM and DRIVER and importlib.util.find_spec("selenium"))
# The first one: Chromium will not run as root otherwise. The pages are our own.
ARGUMENTS = ("--no-sandbox", "--headless=new", "--disable-gpu", "--disable-dev-shm-usage")


@contextmanager
def browser(width: int = 1200, height: int = 1000) -> Iterator[Any]:
    """Start one, with its console kept, and end it."""
    from selenium import webdriver  # noqa: PLC0415 -- who has no browser needs none
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (*ARGUMENTS, f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def set_dark(driver: Any, dark: bool) -> None:
    """Let pages see that a dark or a light scheme is preferred."""
    value = "dark" if dark else "light"
    features = [{"name": "prefers-color-scheme", "value": value}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
