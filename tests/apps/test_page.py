"""The script of the page that `vilta serve` shows, in node with a stand-in for the browser."""

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

NODE = shutil.which("node")
STAND_IN = Path(__file__).parents[1] / "support" / "page.js"
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")


def in_the_page(steps):
    script = str(files("vilta.apps") / "page" / "page.js")
    words = [NODE, str(STAND_IN), script]
    done = subprocess.run(words, input=steps, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_flagged_word_is_marked_where_it_stands_behind_an_emoji():
    caption = "😀😀 a red ball"
    start = caption.index("red")
    word = {"word": "red", "start": start, "end": start + 3, "flagged": True, "instead": "blue"}
    word |= {"with_image": -2.0, "without_image": 1.0}
    answer = {"caption": caption, "corrected": "", "unread": "", "unknown": [], "words": [word]}
    marks, text = in_the_page(f"""
        await page.choose("a.png");
        await page.press("proofread", {json.dumps(caption)});
        await page.answer({json.dumps(answer)});
        const answers = page.answers();
        const text = answers.children[0].children[0].textContent;
        return [answers.querySelectorAll("mark").map((mark) => mark.textContent), text];
    """)
    assert (marks, text) == (["red"], caption)


@pytest.mark.parametrize("verb", ["match", "proofread"])
@pytest.mark.parametrize("first", ["a.png", "no photo.heic"])
def test_answers_about_a_photo_never_stand_beside_another(verb, first):
    answer = {"caption": "a", "corrected": "a", "probability": 0.9}
    answer |= {"unread": "", "unknown": [], "words": []}
    sent = [answer] if verb == "match" else answer
    asked, late, said, shown, own = in_the_page(f"""
        await page.choose("{first}");
        await page.press("{verb}", "a\\nb");
        const before = page.requests.length;
        await page.choose("b.png");
        await page.answer({json.dumps(sent)});
        const found = [page.requests.length - before, page.answers().children.length];
        found.push(page.said(), page.shown());
        await page.press("{verb}", "a");
        await page.answer({json.dumps(sent)});
        return [...found, page.answers().children.length];
    """)
    assert (asked, late, said, shown, own) == (0, 0, "", "b.png", 1)


def test_what_was_said_of_a_photo_goes_with_it():
    assert in_the_page("""
        await page.choose("no photo.heic");
        const said = [page.said()];
        await page.choose("a.png");
        return [...said, page.said(), page.shown()];
    """) == ["this browser cannot show the image", "", "a.png"]
