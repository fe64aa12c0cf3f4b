"""Screenshots that browser tests leave in outputs/browser for people to look at."""

from pathlib import Path

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

FOLDER = Path(__file__).resolve().parents[2] / "outputs" / "browser"


def shot(browser: Chrome, name: str) -> None:
    """Keep the window's picture; Chromium refuses while it still swaps a loaded page in, so ask until it has one."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = str(FOLDER / f"{name}.png")
    WebDriverWait(browser, 60, ignored_exceptions=[WebDriverException]).until(
        lambda driver: driver.save_screenshot(path)
    )
