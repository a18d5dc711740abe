"""The page itself: opened in a headless browser, without network; and what the viewer is given."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from nnunet_mamba.cli import main as cli
from nnunet_mamba.study.comparison.report import Report, Section, write_html, write_markdown
from nnunet_mamba.study.comparison.tables import Table
from nnunet_mamba.study.comparison.viewer import LONGEST, ViewedCase, encode
from tests.study.comparison.conftest import BAD, CASES, GOOD, Workspace

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MUST = "NNUNET_MAMBA_TEST_BROWSER"
"""Set where a browser has to be there."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        assert not os.environ.get(MUST), "no browser here"
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield opened
        opened.close()


def test_the_page_in_a_browser(workspace: Workspace, browser: Any, tmp_path: Path) -> None:
    assert cli.main(["compare", "-d", "4", GOOD, BAD, "-metrics", "Dice", "HD95"]) == 0
    # alone in another folder: it needs nothing beside it
    report = Path(shutil.copy(workspace.results / "comparison" / "report.html", tmp_path / "sent.html"))
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector("#viewer[data-ready]")
    assert not complaints
    assert [u for u in requests if not u.startswith("data:")] == [report.as_uri()]
    pictures = page.eval_on_selector_all("img", "all => all.map(i => i.complete && i.naturalWidth)")
    assert len(pictures) >= 5
    assert all(pictures)
    for link in page.eval_on_selector_all("nav a", "all => all.map(a => a.getAttribute('href'))"):
        assert page.locator(link).count() == 1, link
    # every plane shows something, and moves with its bar, the wheel and the keys
    for plane in ("axial", "coronal", "sagittal"):
        shown = page.locator(f"#{plane}")
        before = _pixels(page, plane)
        assert np.ptp(before[..., 0]) > 50
        at = page.locator(f"#{plane}-at").inner_text()
        shown.focus()
        page.keyboard.press("ArrowUp")
        assert page.locator(f"#{plane}-at").inner_text() != at
        assert (_pixels(page, plane) != before).any()
        shown.hover()
        page.mouse.wheel(0, -100)
        page.wait_for_function(f"document.getElementById('{plane}-at').textContent === {at!r}")
        assert (_pixels(page, plane) == before).all()
        page.locator(f"#{plane}-slice").fill("0")
        assert page.locator(f"#{plane}-at").inner_text().startswith("1 of ")
    # colours only where there is something to show; the good model has fewer errors than the bad one
    page.locator("#case").select_option(index=2)
    page.wait_for_function("document.getElementById('viewer').dataset.ready !== undefined")
    page.locator("#mode").select_option("none")
    assert _colored(page) == 0
    page.locator("#mode").select_option("error")
    errors = []
    for index in (0, 1):
        page.locator("#model").select_option(index=index)
        errors.append(_colored(page))
    assert 0 < errors[0] < errors[1]
    assert all(word in page.locator("#legend").inner_text() for word in ("missed", "false", "another label"))
    page.close()


def _pixels(page: Any, plane: str) -> np.ndarray:
    url = page.eval_on_selector(f"#{plane}", "canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"), int)


def _colored(page: Any) -> int:
    return int(sum((np.ptp(_pixels(page, plane), axis=-1) > 0).sum() for plane in ("axial", "coronal", "sagittal")))


def test_texts_are_escaped_and_tables_alike(tmp_path: Path) -> None:
    table = Table("a < b", "note & note", ("<script>", "x|y"), (("</table>", "1"),))
    report = Report("T <1>", ("about",), (Section("S", (table,)),), (("d", "<b>"),))
    write_html(report, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert text.count("</table>") == 1
    assert "note &amp; note" in text
    write_markdown(report, tmp_path / "r.md")
    assert r"| &lt;script> | x\|y |" in (tmp_path / "r.md").read_text(encoding="utf-8")


def _unpacked(sheet: str, encoded: dict[str, Any]) -> np.ndarray:
    """(z y x)"""
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.split(",")[1]))))
    x, y, z = encoded["size"]
    columns = encoded["columns"]
    rows = picture.shape[0] // y
    return picture.reshape(rows, y, columns, x).transpose(0, 2, 1, 3).reshape(-1, y, x)[:z]


@pytest.mark.parametrize(
    "direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 1, 0, 1, 0, 0, 0, 0, -1)]
)
def test_voxels_end_where_they_belong(tmp_path: Path, direction: tuple[float, ...]) -> None:
    """A block and one voxel in patient coordinates, whatever the order and sign of the file's axes"""
    labels = np.zeros((6, 30, 40), np.uint8)
    labels[2:4, 10:20, 5:25] = 1
    labels[3, 12, 8] = 2
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((0.8, 0.8, 4.0))
    image.SetDirection(direction)
    path = tmp_path / "l.nii.gz"
    sitk.WriteImage(image, str(path))
    encoded = encode(ViewedCase("c", None, path, {"p": path}))
    volume = _unpacked(encoded["truth"], encoded)
    assert encoded["mm"] == pytest.approx(0.8)
    mm3 = encoded["mm"] ** 3
    assert (volume > 0).sum() * mm3 == pytest.approx((labels > 0).sum() * 0.8 * 0.8 * 4, rel=0.02)
    assert (volume == 2).sum() == 5, "one voxel of 4 mm is five of 0.8 mm"
    expected = image.TransformIndexToPhysicalPoint((8, 12, 3))
    first = image.TransformIndexToPhysicalPoint((15, 14, 3))
    small, whole = (np.argwhere(mask).mean(0)[::-1] for mask in (volume == 2, volume > 0))
    moved = (small - whole) * encoded["mm"]
    centre = np.array([image.TransformContinuousIndexToPhysicalPoint(c) for c in ((14.5, 14.5, 2.5),)])[0]
    assert np.allclose(moved, np.array(expected) - centre, atol=0.45), (moved, expected, first)
    assert (_unpacked(encoded["predictions"]["p"], encoded) == volume).all()


def test_large_volumes_are_made_smaller(tmp_path: Path) -> None:
    labels = np.zeros((40, 512, 512), np.uint8)
    labels[:, 5:500, 5:500] = 3
    path = tmp_path / "l.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))
    encoded = encode(ViewedCase("c", path, path, {}))
    assert max(encoded["size"]) == LONGEST
    assert set(np.unique(_unpacked(encoded["truth"], encoded))) == {0, 3}


def test_2d_and_empty(tmp_path: Path) -> None:
    flat, empty = tmp_path / "f.png", tmp_path / "e.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.eye(32, dtype=np.uint8)), str(flat))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 8, 8), np.uint8)), str(empty))
    assert encode(ViewedCase("c", flat, flat, {"p": flat}))["size"][2] == 1
    assert encode(ViewedCase("c", None, empty, {"p": empty}))["size"] == [8, 8, 4]


def test_the_same_comparison_is_the_same_page(workspace: Workspace) -> None:
    pages = []
    for folder in ("a", "b"):
        assert cli.main(["compare", "-d", "4", GOOD, "-metrics", "Dice", "-o", str(workspace.root / folder)]) == 0
        pages.append((workspace.root / folder / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert not re.search(rb'(src|href)="(https?:)?//', pages[0])
    assert CASES[0].encode() in pages[0]
