"""The page in a real browser: all that one can do on it, with a mouse, a keyboard and a phone."""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.cad.exchange.files import ConvertTask, WriteOptions, convert
from pipeline.cad.exchange.formats import Library
from pipeline.cad.exchange.scripts import read_script, script
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.cad.solids import kernel

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is here"),
]
CLEVIS = synthesis.make_part(0, 3, ("clevis",))
WEBGL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=WEBGL)
        yield browser
        browser.close()


@pytest.fixture
def page(server, browser):
    """A page of its own, that must say nothing on its console and ask nobody else."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: said.extend([sent.url] * (not sent.url.startswith((server.url, "blob:")))))
    page.goto(server.url)
    yield page
    assert [text for text in said if "400 (Bad Request)" not in text and "GPU stall" not in text] == []
    context.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A part as a scan, as programs and in a picture."""
    folder = tmp_path_factory.mktemp("files")
    for suffix in ("stl", "json", "py"):
        convert(ConvertTask(CLEVIS.program, folder / f"clevis.{suffix}"))
    convert(ConvertTask(CLEVIS.program, folder / "view.png", WriteOptions(num_views=1)))
    return folder


def open_program(page, files):
    page.get_by_label("Scan, mesh, pictures or a program").set_input_files(files / "clevis.json")
    page.wait_for_selector("#steps li")


def numbers(page):
    """What the line beneath the picture says of the solid: sizes and volume."""
    return page.inner_text("#facts").split("; ")[:2]


def send(page, path):
    """Give the page a file whose numbers are metres."""
    page.get_by_label("Numbers of scans and meshes are").select_option("m")
    page.get_by_label("Scan, mesh, pictures or a program").set_input_files(path)


def colours(page):
    """How many colours the picture has."""
    return len(np.unique(np.array(Image.open(io.BytesIO(page.locator("#view").screenshot()))).reshape(-1, 3), axis=0))


def idle(page):
    page.wait_for_selector("#part[aria-busy=false]")


def volume(program):
    return kernel.volume(kernel.build(program)) * 1e9


def test_words_and_examples(page):
    page.get_by_label("In words").fill("A plate with four holes.")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector("#steps li", timeout=60_000)
    assert page.locator("#steps li").count() >= 1
    page.get_by_label("Candidates").fill("4")
    page.locator("#examples button").first.click()
    idle(page)
    said = page.locator("#examples button").first.inner_text()
    assert said.removesuffix(" …") in page.input_value("#caption")
    assert page.locator("#choices button").count() in (0, 2, 3, 4)
    page.get_by_role("button", name="scan: ").first.click()
    page.wait_for_selector("#given li:has-text('scan: ')")
    idle(page)


def test_a_scan_is_explained_while_one_watches(page, files):
    send(page, files / "clevis.stl")
    page.wait_for_selector("#given li:has-text('scan: clevis.stl')")
    assert page.get_by_label("Search, seconds").input_value() == "10"
    assert colours(page) > 20
    page.get_by_label("Search, seconds").fill("4")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector("#facts:has-text('search is over')", timeout=60_000)
    assert float(re.search(r"([\d.]+) mm off the scan in the mean", page.inner_text("#facts"))[1]) < 1.5
    assert page.get_attribute("#view", "data-shown") == "solid"
    page.get_by_label("error on the part").check()
    assert page.get_attribute("#view", "data-shown") == "error"
    assert page.locator("#legend").is_visible()
    page.get_by_role("button", name="remove clevis.stl").click()
    assert page.get_attribute("#view", "data-shown") == "solid"


def test_pictures_are_searched_for(page, files):
    send(page, files / "view.png")
    page.wait_for_selector("#given li:has-text('picture: view.png')")
    page.get_by_label("Search, seconds").fill("3")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector("#facts:has-text('search is over')", timeout=60_000)
    assert re.search(r"[\d.]+% unlike the pictures", page.inner_text("#facts"))


def test_a_search_is_stopped(page, files):
    send(page, files / "clevis.stl")
    page.wait_for_selector("#given li")
    page.get_by_label("Search, seconds").fill("100")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector("#facts:has-text('programs judged')", timeout=60_000)
    page.get_by_role("button", name="Stop").click()
    idle(page)
    assert page.locator("#steps li").count() >= 1


def test_a_changed_number_is_seen_and_taken_back(page, files):
    open_program(page, files)
    before = numbers(page)
    page.locator("#steps summary").first.click()
    field = page.get_by_label(re.compile("step 1, extrusion: "))
    was = float(field.input_value())
    field.fill(str(was * 1.5))
    page.wait_for_selector("#undo:not([disabled])")
    edited = page.locator("#steps li").first.inner_text()
    assert numbers(page) != before
    said = page.inner_text("#facts")
    field.press("ArrowUp")  # still in the field: the list was made anew around it
    page.wait_for_selector(f"#facts:not(:has-text('{said}'))")
    page.get_by_role("button", name="Undo").click()  # both were edits of one number
    assert numbers(page) == before
    page.get_by_role("button", name="Redo").click()
    page.get_by_role("button", name="Undo").click()
    assert numbers(page) == before
    assert page.locator("#steps li").first.inner_text() != edited
    steps = page.locator("#steps li").count()
    page.get_by_role("button", name=f"delete step {steps}").click()
    page.wait_for_selector(f"#steps li:nth-child({steps - 1}):last-child")
    page.locator("#view").focus()
    page.keyboard.press("Control+z")
    page.wait_for_selector(f"#steps li:nth-child({steps}):last-child")
    assert numbers(page) == before


def test_edits_that_come_faster_than_they_are_built_are_all_there(page, files):
    def late(route):
        page.wait_for_timeout(300)
        route.continue_()

    open_program(page, files)
    page.route("**/v1/build", late)
    for summary in page.locator("#steps summary").all():
        summary.click()
    fields = [page.get_by_label(re.compile(f"step {step}, extrusion: ")).first for step in (1, 2)]
    wanted = [str(round(float(field.input_value()) * 1.25, 3)) for field in fields]
    for field, value in zip(fields, wanted, strict=True):
        field.fill(value)
    page.wait_for_timeout(1500)
    assert [float(field.input_value()) for field in fields] == pytest.approx([float(value) for value in wanted])
    page.get_by_role("button", name="Undo").click()  # the second alone
    assert float(fields[0].input_value()) == pytest.approx(float(wanted[0]))
    assert float(fields[1].input_value()) != pytest.approx(float(wanted[1]))


def test_a_scan_in_millimetres_is_as_large_as_it_is(page, files):
    page.get_by_label("Scan, mesh, pictures or a program").set_input_files(files / "clevis.stl")
    page.wait_for_selector("#given li")
    thousandth = page.inner_text("#facts")
    page.get_by_label("Numbers of scans and meshes are").select_option("m")
    page.wait_for_selector(f"#facts:not(:has-text('{thousandth}'))")
    sizes = [
        [float(each) for each in re.findall(r"[0-9][0-9.]*", text)] for text in (thousandth, page.inner_text("#facts"))
    ]
    assert sizes[1] == pytest.approx([1000 * each for each in sizes[0]], rel=0.01)


def test_a_half_finished_part_is_gone_on_from(page, files):
    open_program(page, files)
    page.get_by_role("button", name="delete step 2").click()
    page.wait_for_selector("#undo:not([disabled])")
    page.get_by_role("button", name="Go on from here").click()
    page.wait_for_selector("#part[aria-busy=true]")
    idle(page)
    assert page.locator("#steps li").count() >= 1
    assert page.locator("#problem").is_hidden()


def test_every_file_can_be_had(page, files):
    open_program(page, files)
    begins = {"step": b"ISO-10303-21", "glb": b"glTF", "json": b"{", "py": b"# Millimetres", "png": b"\x89PNG"}
    for value in ("step", "stl", "glb", "json", "py", "py:build123d", "png"):
        page.get_by_label("Format").select_option(value)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        data = download.value.path().read_bytes()
        suffix = value.partition(":")[0]
        assert download.value.suggested_filename == f"part.{suffix}"
        assert data.startswith(begins.get(suffix, b""))
        if suffix == "json":
            assert volume(documents.loads(data)) == pytest.approx(volume(CLEVIS.program))
        if suffix == "py":
            assert volume(read_script(data)) == pytest.approx(volume(CLEVIS.program), rel=1e-6)


def test_a_link_brings_the_work_back(page, files, browser, server):
    open_program(page, files)
    page.get_by_role("button", name="Copy link").click()
    page.wait_for_selector("#facts:has-text('the whole program')")
    other = browser.new_page()
    other.goto(page.url)
    other.wait_for_selector("#steps li")
    assert other.locator("#steps").inner_text() == page.locator("#steps").inner_text()
    other.goto(f"{server.url}/#p=nonsense")
    other.wait_for_selector("#problem:has-text('The link is damaged')")
    other.close()


def test_what_is_wrong_is_said(page, tmp_path):
    (tmp_path / "part.stl").write_bytes(b"solid nonsense")
    (tmp_path / "notes.doc").write_bytes(b"x")
    for name in ("part.stl", "notes.doc"):
        page.get_by_label("Scan, mesh, pictures or a program").set_input_files(tmp_path / name)
        page.wait_for_selector(f"#problem:has-text('{name}')")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector("#problem:has-text('what is to be built')")
    assert page.get_attribute("#problem", "role") == "alert"


def test_a_script_changed_by_hand_is_opened(page, tmp_path):
    text = script(CLEVIS.program, Library.BUILD123D)
    (tmp_path / "mine.py").write_text(text)
    page.get_by_label("Scan, mesh, pictures or a program").set_input_files(tmp_path / "mine.py")
    page.wait_for_selector("#steps li")
    assert page.locator("#steps > li").count() == len(CLEVIS.program.extrudes)


def test_the_part_turns_by_keys_and_mouse(page, files):
    open_program(page, files)
    view = page.locator("#view")
    first = view.screenshot()
    view.focus()
    page.keyboard.press("ArrowLeft")
    second = view.screenshot()
    assert second != first
    box = view.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 130)
    page.mouse.up()
    assert view.screenshot() != second


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_is_wider_than_the_screen_and_all_has_a_name(browser, server, files, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server.url)
    open_program(page, files)
    for summary in page.locator("#steps summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select, textarea, canvas")].filter((one) =>
          !(one.getAttribute("aria-label") || one.innerText || (one.labels || []).length)).map((one) => one.id)"""
    )
    assert unnamed == []
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 300) == (scheme == "dark")
    context.close()
