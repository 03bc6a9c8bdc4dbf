#!/usr/bin/env python3
"""Opens report pages in headless Chromium: no script error, sorting and filtering work, no sideways scrolling.

usage: render_html.py SAMPLE_PAGES_PROGRAM
Exit code 77 (skipped) where no Chromium is installed; what needs no browser is checked before.
"""
import base64
import hashlib
import html.parser
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

VOID = {"meta", "br", "wbr", "input", "img", "hr", "link"}
PAGES = ["llama.html", "hostile.html", "empty.html", "one.html", "small.html", "large.html"]


class Nesting(html.parser.HTMLParser):
    """Every tag that opens is closed, in order; ids are unique; aria references exist."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.wanted, self.script = [], set(), set(), ""

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                assert value not in self.ids, f"id {value} occurs twice"
                self.ids.add(value)
            if name == "aria-labelledby":
                self.wanted.update(value.split())
            if name == "href":
                assert value.startswith("#"), value
                self.wanted.add(value[1:])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script += data


class Rows(html.parser.HTMLParser):
    """The layer table of a page as the browser left it."""

    def __init__(self, column):
        super().__init__()
        self.column, self.cell, self.values, self.hidden, self.sorted, self.root = column, 0, [], 0, [], {}

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "html":
            self.root = attributes
        if tag == "tr" and attributes.get("id", "").startswith("l"):
            self.cell = 0
            self.hidden += "hidden" in attributes
        if tag in ("td", "th"):
            if self.cell == self.column and "data-v" in attributes:
                self.values.append(float(attributes["data-v"]))
            self.cell += 1
        if tag == "th" and "aria-sort" in attributes:
            self.sorted.append((attributes["data-key"], attributes["aria-sort"]))


def check_text(path):
    text = path.read_text(encoding="utf-8")
    nesting = Nesting()
    nesting.feed(text)
    assert nesting.open == [], nesting.open
    assert nesting.wanted <= nesting.ids, nesting.wanted - nesting.ids
    digest = base64.b64encode(hashlib.sha256(nesting.script.encode()).digest()).decode()
    allowed = re.search(r"script-src 'sha256-([^']+)'", text).group(1)
    assert digest == allowed, f"page_script_hash() must return {digest}"


def browse(browser, profile, url):
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               "--allow-file-access-from-files", f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0",
               "--dump-dom", url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    assert not said, f"{url}: the console says {said}"
    return result.stdout


def check_pages(browser, profile, folder):
    for page in PAGES:
        dom = browse(browser, profile, (folder / page).as_uri())
        rows = Rows(5)
        rows.feed(dom)
        assert rows.root.get("data-ready") == "1", f"{page}: the script did not reach its end"
        assert "data-pwned" not in rows.root, f"{page}: a text of the report was run"


def check_sorting(browser, profile, folder):
    def rows(fragment, column=5):
        parsed = Rows(column)
        parsed.feed(browse(browser, profile, (folder / "llama.html").as_uri() + fragment))
        return parsed

    unsorted = rows("")
    assert len(unsorted.values) == 224 and unsorted.values != sorted(unsorted.values) and unsorted.sorted == []
    # A click on the head of the column, by way of the address.
    ascending = rows("#sort=sqnr")
    assert ascending.values == sorted(unsorted.values), "not sorted by SQNR"
    assert ascending.sorted == [("sqnr", "ascending")], ascending.sorted
    descending = rows("#sort=sqnr:descending")
    assert descending.values == sorted(unsorted.values, reverse=True)
    nmse = rows("#sort=nmse", 6)
    assert nmse.values == sorted(nmse.values, reverse=True) and nmse.sorted == [("nmse", "descending")]
    filtered = rows("#filter=down_proj&sort=sqnr")
    assert filtered.hidden == 192 and filtered.sorted == [("sqnr", "ascending")], filtered.hidden
    rows("#filter=%E0%A4%A&sort=nothing&l5")  # a broken address is no script error


def check_widths(browser, profile, folder):
    """Frames of several widths on one page; none may be wider inside than it is."""
    widths = (320, 390, 768, 1280)
    frames = "".join(f'<iframe src="{page}" style="width:{width}px;height:800px;border:0"></iframe>\n'
                     for page in PAGES for width in widths)
    frame_page = folder / "frames.html"
    frame_page.write_text(f"""<body>{frames}<script>
        onload = function () {{
          document.querySelectorAll("iframe").forEach(function (frame) {{
            frame.dataset.width = frame.contentDocument.documentElement.scrollWidth;
          }});
        }};</script>""")
    dom = browse(browser, profile, frame_page.as_uri())
    found = re.findall(r'<iframe src="([^"]+)" style="width:(\d+)px[^>]*data-width="(\d+)"', dom)
    assert len(found) == len(PAGES) * len(widths), f"{len(found)} frames measured"
    wide = [entry for entry in found if int(entry[2]) > int(entry[1])]
    assert not wide, f"pages (name, width, width needed) that scroll sideways: {wide}"


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        subprocess.run([sys.argv[1], str(folder)], check=True)
        for page in PAGES:
            check_text(folder / page)
        names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        browser = next((path for path in map(shutil.which, names) if path), None)
        if browser is None:
            print("skipped: no Chromium found; the pages were checked as text only")
            return 77
        profile = folder / "profile"
        check_pages(browser, profile, folder)
        check_sorting(browser, profile, folder)
        check_widths(browser, profile, folder)
    print("all pages rendered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
