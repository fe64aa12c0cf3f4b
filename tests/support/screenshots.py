"""Screenshots that browser tests leave in outputs/browser for people to look at."""

from pathlib import Path

from selenium.common.exceptions import TimeoutException
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

FOLDER = Path(__file__).resolve().parents[2] / "outputs" / "browser"


def shot(browser: Chrome, name: str) -> None:
    """Keep the window's picture; while Chromium swaps a loaded page in, it may time out, so ask until it has one."""
    wait = WebDriverWait(browser, 60, ignored_exceptions=[TimeoutException])
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.png").write_bytes(wait.until(lambda driver: driver.get_screenshot_as_png()))
