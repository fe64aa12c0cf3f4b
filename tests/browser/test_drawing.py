"""The drawing page in a real Chromium: a click on a node shows its data and highlights related nodes."""

import re

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.action_chains import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from support.screenshots import shot

from nl_models import build
from nl_training.data import load
from nl_training.verification import verify
from nl_training.viz.graph import capture_layer, capture_network, page

pytestmark = pytest.mark.browser

FORM = {"batch_norm": "before_activation", "dropout": 0.5, "width": 16}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("drawings")
    diagrams = {"Affine": capture_layer("Affine")}
    data = load("mnist5k")
    for name in ("cnn3", "vgg16"):
        net = build(name, **FORM)
        certificate = verify(net, "warn", 60).certificate
        diagrams[name] = capture_network(net, data.train.x[:8], data.train.t[:8], certificate)
    for name, diagram in diagrams.items():
        (folder / f"{name}.html").write_text(page(diagram))
    return {name: (folder / f"{name}.html").as_uri() for name in diagrams}


@pytest.fixture
def show(browser: Chrome, pages: dict[str, str]):
    """Opens a page; at the end of the test, it must have complained of nothing and asked for nothing."""
    metrics = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    yield lambda name: browser.get(pages[name])
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def node(browser: Chrome, label: str, graph: int = 0) -> WebElement:
    """The first node of the reference that is called so, or of the compiled graph."""
    found = browser.find_elements(By.XPATH, f"//*[@data-node and .//*[text()='{label}']]")
    of = "return facts.groups[groupOf.get(Number(arguments[0].dataset.node))].graph"
    return next(element for element in found if browser.execute_script(of, element) == graph)


def group(browser: Chrome, title: str, graph: int = 0) -> WebElement:
    return browser.find_elements(By.XPATH, f"//*[@data-group and .//*[text()='{title}']]")[graph]


def lit(browser: Chrome) -> list[str]:
    """The labels of the nodes highlighted as related to the selected one."""
    return [
        label.get_attribute("textContent") for label in browser.find_elements(By.CSS_SELECTOR, ".node.related .label")
    ]


def panel(browser: Chrome) -> str:
    return browser.find_element(By.ID, "panel").text


def scale(browser: Chrome) -> float:
    return browser.execute_script("return camera.scale")


def test_click_shows_formula_shape_statistics_and_residual(browser: Chrome, show) -> None:
    show("Affine")
    assert panel(browser).startswith("The same graph twice")
    node(browser, "Dot").click()
    told = panel(browser)
    for words in ("y = x @ w", "dx = dy @ w.T, dw = x.T @ dy", "3 × 5", "standard deviation", "gradient", "120 bytes"):
        assert words in told
    node(browser, "weight").click()
    told = panel(browser)
    assert "verified, residual" in told
    assert "y = x @ w" not in told
    shot(browser, "drawing-affine")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    assert panel(browser).startswith("The same graph twice")
    assert lit(browser) == []


def test_click_on_a_compiled_node_shows_its_time_and_highlights_its_sources(browser: Chrome, show) -> None:
    show("cnn3")
    browser.find_element(By.ID, "open").click()
    node(browser, "Normalize+pool+relu", 1).click()
    told = panel(browser)
    (forward, backward) = re.search(r"time ([\d.]+ [mµ]s) ([\d.]+ [mµ]s)", told).groups()
    assert float(forward.split()[0]) > 0 < float(backward.split()[0])
    for words in ("cost", "of the step", "operations", "read and written", "y = max(pool(gamma xhat + beta) + r, 0)"):
        assert words in told
    of = {"Power -0.5", "ValueMask", "Img2Matrix", "Max"}
    assert of < set(lit(browser))
    assert "Mean" not in lit(browser)
    shot(browser, "drawing-related")
    node(browser, "ValueMask").click()
    assert lit(browser) == ["Normalize+pool+relu"]
    browser.find_element(By.XPATH, "//aside//button[contains(., 'Normalize+pool+relu')]").click()
    assert of < set(lit(browser))
    node(browser, "Transpose", 1).click()
    assert "None: the compiler inserted it." in panel(browser)


def test_both_graphs_and_the_panel_are_visible(browser: Chrome, show) -> None:
    for name in ("Affine", "cnn3", "vgg16"):
        show(name)
        edges = []
        for graph in (0, 1):
            boxes = browser.execute_script(
                "return graphs[arguments[0]].map((i) => groups[i].getBoundingClientRect().toJSON())", graph
            )
            edges += [min(box["left"] for box in boxes), max(box["right"] for box in boxes)]
            assert all(box["top"] > 0 and box["bottom"] < 900 for box in boxes)
        wall = browser.find_element(By.ID, "panel").rect["x"]
        assert 0 < edges[0] < edges[1] < edges[2] < edges[3] < wall


def test_page_works_at_a_phones_width(browser: Chrome, show) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    show("cnn3")
    shot(browser, "drawing-phone")
    under = browser.find_element(By.ID, "panel").rect["y"]
    boxes = browser.execute_script("return groups.map((g) => g.getBoundingClientRect().toJSON())")
    assert all(0 < b["left"] < b["right"] < 390 and 0 < b["top"] < b["bottom"] < under for b in boxes)
    browser.find_element(By.ID, "open").click()
    node(browser, "Dot").click()
    assert "y = x @ w" in panel(browser)
    before = scale(browser)
    for kind, reach in (("touchStart", 20), ("touchMove", 40), ("touchEnd", 0)):
        points = [{"x": 195 + side * reach, "y": 300, "id": id} for id, side in enumerate((-1, 1))] if reach else []
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert scale(browser) == pytest.approx(2 * before, rel=0.01)
    assert "y = x @ w" in panel(browser)


def test_convolution_algorithm_is_shown(browser: Chrome, show) -> None:
    show("vgg16")
    group(browser, "Convolution 5", 1).find_element(By.CSS_SELECTOR, ".shut").click()
    assert node(browser, "W5").is_displayed()
    assert node(browser, "W5", 1).is_displayed()
    boxes = browser.find_elements(By.CSS_SELECTOR, ".group:not(.closed)")
    assert len(boxes) == 2
    boxes[1].find_element(By.XPATH, ".//*[@data-node and .//*[text()='Conv']]").click()
    assert "algorithm winograd 4x4" in panel(browser)
    assert sorted(lit(browser)) == ["Dot", "Img2Matrix", "Reshape", "Transpose"]
    shot(browser, "drawing-vgg16-related")


def test_collapsed_layer_is_highlighted_for_its_nodes(browser: Chrome, show) -> None:
    show("vgg16")
    group(browser, "Relu 2").find_element(By.CSS_SELECTOR, ".shut").click()
    browser.find_element(By.CSS_SELECTOR, ".group:not(.closed) [data-node]").click()
    related = browser.find_elements(By.CSS_SELECTOR, ".group.closed.related")
    assert [element.get_attribute("data-group") for element in related] == [
        group(browser, "BatchNormalization 2", 1).get_attribute("data-group")
    ]


def test_panel_links_lead_to_other_nodes(browser: Chrome, show) -> None:
    show("Affine")
    node(browser, "weight").click()
    browser.find_element(By.XPATH, "//aside//button[contains(., 'Dot')]").click()
    assert panel(browser).startswith("×\nDot")
    chosen = browser.find_elements(By.CSS_SELECTOR, ".node.selected")
    assert [element.text.split()[0] for element in chosen] == ["Dot"]
    assert len(browser.find_elements(By.CSS_SELECTOR, ".edge.near")) == 3


def test_large_network_starts_collapsed_and_its_layers_expand(browser: Chrome, show) -> None:
    show("vgg16")
    shot(browser, "drawing-vgg16")
    assert not any(element.is_displayed() for element in browser.find_elements(By.CSS_SELECTOR, "[data-node]"))
    group(browser, "Convolution 5").find_element(By.CSS_SELECTOR, ".shut").click()
    assert node(browser, "W5").is_displayed()
    assert not node(browser, "W6").is_displayed()
    node(browser, "W5").click()
    assert "64 × 32 × 3 × 3" in panel(browser)
    assert "verified in the compiled graph, residual" in panel(browser)
    shot(browser, "drawing-vgg16-open")
    group(browser, "Convolution 5").find_element(By.CSS_SELECTOR, ".open .title").click()
    assert not node(browser, "W5").is_displayed()
    browser.find_element(By.ID, "open").click()
    assert node(browser, "W16").is_displayed()
    shot(browser, "drawing-vgg16-all")


def test_expanded_layers_do_not_overlap(browser: Chrome, show) -> None:
    show("vgg16")
    overlaps = """
        const boxes = [...document.querySelectorAll(".group")].map((g) => g.getBoundingClientRect());
        const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
        return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => !apart(a, b))).length;
    """  # noqa: E501
    for opened in (0, 3, 20, 21):
        browser.execute_script(f"if (!open[{opened}]) toggle({opened})")
        assert browser.execute_script(overlaps) == 0
    browser.find_element(By.ID, "open").click()
    assert browser.execute_script(overlaps) == 0


def test_drag_pans_and_wheel_zooms(browser: Chrome, show) -> None:
    show("cnn3")
    shot(browser, "drawing-cnn3")
    browser.find_element(By.ID, "open").click()
    shot(browser, "drawing-cnn3-all")
    relu = node(browser, "ValueMask")
    before, at = scale(browser), relu.rect
    view = browser.find_element(By.ID, "view")
    ActionChains(browser).drag_and_drop_by_offset(view, 60, 40).perform()
    assert relu.rect["x"] - at["x"] == pytest.approx(60, abs=1)
    assert relu.rect["y"] - at["y"] == pytest.approx(40, abs=1)
    assert panel(browser).startswith("The same graph twice")
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(view), 0, -300).perform()
    assert scale(browser) > before
    browser.find_element(By.ID, "fit").click()
    assert scale(browser) == pytest.approx(before)


def test_dark_colour_scheme_is_respected(browser: Chrome, show) -> None:
    show("cnn3")
    ground = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(browser.execute_script(ground)) > 200
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        assert max(browser.execute_script(ground)) < 60
        browser.find_element(By.ID, "open").click()
        node(browser, "gamma1").click()
        shot(browser, "drawing-dark")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
