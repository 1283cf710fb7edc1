"""A real browser for the pages, and what a person would find wrong with one."""

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image

INSTALL = "apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver fonts-liberation"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium from Debian's packages, with an empty profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.fail(f"the page is tested in a real browser, which is not here; on Debian: {INSTALL}")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


FAULTS = """
const found = []
for (const fold of document.querySelectorAll('details')) fold.open = true
if (window.fit) fit(tables)
const seen = document.documentElement.clientWidth
const wide = document.documentElement.scrollWidth
if (wide > seen) found.push(`the page is ${wide} wide in ${seen}`)
for (const part of document.body.querySelectorAll('*')) {
    const box = part.getBoundingClientRect()
    const outside = box.width && (box.right > seen + 1 || box.left < -1)
    if (outside) { found.push(`outside the window: ${part.tagName} ${part.textContent.trim().slice(0, 40)}`); break }
}
for (const image of document.images) {
    if (!(image.complete && image.naturalWidth > 0)) { found.push('a picture does not load: ' + image.alt); continue }
    if (!image.alt) found.push('a picture has no words')
    const width = image.getBoundingClientRect().width
    if (width < 0.85 * Math.min(seen, 700)) found.push(`a picture is small: ${width} of ${seen}`)
    if (image.naturalWidth > 4.5 * width) found.push('a picture has dots that nobody sees: ' + image.alt)
}
for (const table of document.querySelectorAll('table')) {
    const name = table.textContent.trim().slice(0, 40)
    if (parseFloat(getComputedStyle(table).fontSize) < 12) found.push('a table is too small to read: ' + name)
    for (const row of table.rows) for (const cell of row.cells) {
        const narrow = cell.textContent.trim() && cell.clientWidth && cell.clientWidth < 30
        if (narrow) { found.push('a column is too narrow: ' + name); break }
        if (cell.scrollWidth > cell.clientWidth + 1) { found.push('a cell runs over: ' + cell.textContent); break }
    }
}
for (const at of performance.getEntriesByType('resource')) {
    if (!at.name.startsWith('data:')) found.push('loads ' + at.name)
}
// WCAG 2.1, 1.4.3: 4.5 between text and what is behind it, 3 for large text.
const parsed = text => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number)
const light = text => {
    const [r, g, b] = parsed(text).map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
}
const dark = matchMedia('(prefers-color-scheme: dark)').matches
const grounds = new Map([[null, dark ? 'rgb(18, 18, 18)' : 'rgb(255, 255, 255)']])
const behind = part => {
    if (!grounds.has(part)) {
        const colour = getComputedStyle(part).backgroundColor
        grounds.set(part, (parsed(colour)[3] ?? 1) > 0 ? colour : behind(part.parentElement))
    }
    return grounds.get(part)
}
const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b)
    return (high + 0.05) / (low + 0.05)
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
const judged = new Set()
while (walker.nextNode()) {
    const part = walker.currentNode.parentElement
    if (!walker.currentNode.textContent.trim() || ['SCRIPT', 'STYLE'].includes(part.tagName)) continue
    for (const pseudo of [null, '::before']) {
        if (pseudo && !part.parentElement.dataset.head) continue
        const style = getComputedStyle(pseudo ? part.parentElement : part, pseudo)
        if (pseudo && ['none', 'normal'].includes(style.content)) continue
        const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700)
        const ratio = contrast(style.color, behind(part)), key = `${style.color} on ${behind(part)}`
        if (!judged.has(key) && ratio < (large ? 3 : 4.5)) found.push(`contrast ${ratio.toFixed(1)}: ${key}`)
        judged.add(key)
    }
}
return [...new Set(found)]
"""


def shown(browser, path, width, scheme="light"):
    """Opens the page at a width, as a reader's machine prefers it; returns what the browser complains of."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get(path.as_uri())
    return [
        f"console: {entry['message']}"
        for entry in browser.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]


def faults(browser, path, width, scheme="light"):
    """What a person would find wrong with the page at a width."""
    return shown(browser, path, width, scheme) + browser.execute_script(FAULTS)


def picture(browser):
    """What the window shows."""
    content = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)
