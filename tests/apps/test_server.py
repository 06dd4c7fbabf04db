import asyncio
import io
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from PIL.PngImagePlugin import PngInfo
from small_run import noise

from vilta import Matcher
from vilta.apps.photo_search import PhotoSearch
from vilta.apps.proofreading import NoWordHead

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from vilta.apps import server
from vilta.apps.batching import ModelThread, QueueFull
from vilta.apps.guards import HEADERS
from vilta.apps.service import Limits, NoImage
from vilta.apps.words import UnknownWords
from vilta.training import stopping

CAPTIONS = ["two dogs", "a small red ball"]


def png(seed=0, size=(40, 50), **about):
    file = io.BytesIO()
    noise(seed, size).save(file, "PNG", **about)
    return file.getvalue()


@pytest.fixture(scope="module")
def matcher(tiny_run):
    return Matcher(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def client(matcher):
    limits = Limits(bytes=200_000, pixels=10_000, images=3, seconds=20.0)
    app = server.build_app(matcher, limits=limits)
    with TestClient(app, base_url="http://localhost:8000") as client:
        yield client


def image(data=None, name="image"):
    return (name, ("photo.png", png() if data is None else data, "image/png"))


def test_answers_are_the_matchers(client, matcher):
    found = client.post("/v1/match", files=[image()], data={"captions": CAPTIONS}).json()
    chances = matcher.match(png(), CAPTIONS)
    assert [f["probability"] for f in found] == pytest.approx(chances.tolist(), abs=1e-5)
    assert found[0]["words"] == []

    both = {"images": [], "texts": CAPTIONS}
    files = [image(png(1), "images"), image(png(2), "images")]
    found = client.post("/v1/embed", files=files, data={"texts": both["texts"]}).json()
    wanted = matcher.embed_images([png(1), png(2)])
    assert found["images"] == [pytest.approx(v, abs=1e-5) for v in wanted.tolist()]
    assert found["texts"] == [
        pytest.approx(v, abs=1e-5) for v in matcher.embed_texts(CAPTIONS).tolist()
    ]

    found = client.post("/v1/rank", files=files, data={"text": "a ball"}).json()
    ranked = matcher.rank("a ball", [png(1), png(2)])
    assert [f["index"] for f in found] == [r.index for r in ranked]

    found = client.post("/v1/fill", files=[image()], data={"text": "a ___", "top": 2}).json()
    assert [g["word"] for g in found[0]] == [g.word for g in matcher.fill(png(), "a ___")[0][:2]]

    found = client.post("/v1/proofread", files=[image()], data={"caption": "a ball"}).json()
    assert [w["word"] for w in found["words"]] == ["a", "ball"]


def test_the_guides_calls_are_answered(matcher, photo_folder, tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "using.md").read_text(encoding="utf-8")
    calls = [shlex.split(line) for line in guide.splitlines() if line.startswith("curl ")]
    search = PhotoSearch(matcher, photo_folder, tmp_path / "index")
    search.update()
    with TestClient(server.build_app(matcher, search), base_url="http://127.0.0.1:8000") as client:
        for _, place, *flags in calls:
            assert flags[::2] == ["-F"] * (len(flags) // 2)
            fields = [flag.split("=", 1) for flag in flags[1::2]]
            files = [image(name=name) for name, value in fields if value.startswith("@")]
            texts = {
                name: [v for n, v in fields if n == name]
                for name, value in fields
                if not value.startswith("@")
            }
            assert client.post(place, files=files, data=texts).status_code == 200
    assert len(calls) == 3


def test_two_requests_to_stop_at_once_are_one(tiny_run):
    words = [sys.executable, "-m", "vilta", "serve", str(tiny_run), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        place = process.stderr.readline().split()[0]
        while True:  # it listens before it is ready to be stopped
            try:
                urllib.request.urlopen(place, timeout=60).close()
                break
            except OSError:
                time.sleep(0.1)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        assert process.stderr.read() == "stopped\n"
    assert process.returncode == 130


def test_a_second_request_to_stop_ends_the_server(monkeypatch, capfd):
    ended, now = [], [10.0]
    monkeypatch.setattr(stopping.os, "_exit", ended.append)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    asked = server.Server(server.uvicorn.Config(None))
    for seconds in (0, 0.1, stopping.SECOND_AFTER + 0.1):
        assert not ended
        now[0] = 10 + seconds
        asked.handle_exit(signal.SIGINT, None)
    assert ended == [130] and capfd.readouterr().err == "ended at once\n"
    assert asked.should_exit and not asked.force_exit


def test_heat_maps_are_squares_from_0_to_1(client):
    data = {"captions": ["a ball"], "heat_maps": "true"}
    ((found),) = client.post("/v1/match", files=[image()], data=data).json()
    assert [w["word"] for w in found["words"]] == ["a", "ball"]
    cells = [value for word in found["words"] for row in word["heat"] for value in row]
    assert len(cells) == 2 * 16 and min(cells) >= 0 and max(cells) == 1


def test_the_time_of_a_request_is_that_of_all_its_captions(matcher, monkeypatch):
    def slow(*_):
        time.sleep(0.2)
        raise UnknownWords

    monkeypatch.setattr(matcher, "heat_maps", slow)
    app = server.build_app(matcher, limits=Limits(seconds=3.0))
    data = {"captions": CAPTIONS * 20, "heat_maps": "true"}
    with TestClient(app, base_url="http://localhost") as client:
        assert client.post("/v1/match", files=[image()], data=data).status_code == 503
        assert client.post("/v1/match", files=[image()], data=data | {"captions": "a"}).is_success


def test_search_shows_photos_of_the_folder_and_no_other_file(matcher, photo_folder, tmp_path):
    search = PhotoSearch(matcher, photo_folder, tmp_path / "index")
    search.update()
    with TestClient(server.build_app(matcher, search), base_url="http://localhost") as client:
        assert client.get("/v1/model").json()["photos"] == 6
        found = client.post("/v1/search", data={"query": "a ball", "top": 3}).json()
        assert len(found) == 3 and all("/" not in f["name"] for f in found)
        photo = client.get(f"/v1/photos/{found[0]['photo']}")
        assert photo.headers["content-type"] == "image/jpeg" and photo.content[:2] == b"\xff\xd8"
        for number in ("999", "-1", "../../etc/passwd"):
            assert client.get(f"/v1/photos/{number}").status_code in (404, 422)


def test_a_photo_that_was_deleted_or_damaged_is_not_found(matcher, photo_folder, tmp_path):
    search = PhotoSearch(matcher, photo_folder, tmp_path / "index")
    search.update()
    places = {photo.row: photo.path for photo in search.index.photos()}
    with TestClient(server.build_app(matcher, search), base_url="http://localhost") as client:
        assert client.get("/v1/photos/0").status_code == 200
        places[0].unlink()
        places[1].write_bytes(places[1].read_bytes()[:300])
        assert client.get("/v1/photos/0").status_code == 404
        assert client.get("/v1/photos/1").status_code == 404
        found = client.post("/v1/search", data={"query": "a ball"}).json()
        assert {each["photo"] for each in found} == {2, 3, 4, 5}


def test_a_search_has_a_few_terms(matcher, photo_folder, tmp_path):
    search = PhotoSearch(matcher, photo_folder, tmp_path / "index")
    search.update()
    with TestClient(server.build_app(matcher, search), base_url="http://localhost") as client:
        assert client.post("/v1/search", data={"query": "a ball" + " +a" * 7}).is_success
        answer = client.post("/v1/search", data={"query": "a ball" + " +a -b" * 4})
        assert answer.status_code == 422
        assert answer.json() == {"error": "a search has at most 8 terms"}


def test_without_a_folder_there_is_no_search(client):
    assert client.post("/v1/search", data={"query": "x"}).status_code == 404
    assert client.get("/v1/photos/0").status_code == 404


@pytest.mark.parametrize(
    ("files", "data", "status"),
    [
        ([image(b"GIF89a no image")], {"captions": "x"}, 422),
        ([image(b"")], {"captions": "x"}, 422),
        ([], {"captions": "x"}, 422),
        ([image()], {}, 422),
        ([image()], {"captions": ""}, 422),
        ([image()], {"captions": "x" * 2001}, 422),
        ([image()], {"captions": ["x"] * 65}, 422),
        ([image(png(size=(200, 200)))], {"captions": "x"}, 413),
        ([image(b"x" * 200_001)], {"captions": "x"}, 413),
    ],
)
def test_what_is_too_much_or_no_image_is_refused(client, files, data, status):
    answer = client.post("/v1/match", files=files or None, data=data)
    assert answer.status_code == status
    text = server.ERRORS[status]
    if files and status == 422 and files[0][1][1] != png():
        text = "the image cannot be read; send a JPEG, PNG, WebP, BMP, GIF or TIFF file"
    assert answer.json()["error"] in (text, *server.TOO_MUCH.values()) or status == 413


def test_a_png_with_a_long_text_is_a_picture(client):
    """As image generators write them: their whole workflow, which Pillow refuses to read."""
    about = PngInfo()
    about.add_text("workflow", "x" * 2_000_000, zip=True)
    data = {"captions": "a ball"}
    answers = [
        client.post("/v1/match", files=[image(sent)], data=data).json()
        for sent in (png(), png(pnginfo=about))
    ]
    assert answers[0] == answers[1]


def test_a_photo_that_needs_an_extra_is_an_image_that_cannot_be_read(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic = b"\0\0\0\x18ftypheic" + bytes(100)
    answer = client.post("/v1/match", files=[image(heic)], data={"captions": "a ball"})
    assert answer.status_code == 422
    assert answer.json()["error"] == server.REASONS[NoImage]


@pytest.mark.parametrize(
    ("path", "data", "reason"),
    [
        ("match", {"captions": "x" * 2001}, "a text has more than 2,000 characters"),
        ("match", {"captions": ["x"] * 65}, "there are more than 64 texts or 32 images"),
        ("fill", {"text": "a red ball " * 20 + "___"}, "the text has no blank (___) among"),
        ("fill", {"text": "a <mask> ball"}, "the text has no blank (___) among"),
    ],
)
def test_what_is_wrong_with_a_text_is_told(client, path, data, reason):
    answer = client.post(f"/v1/{path}", files=[image()], data=data)
    assert answer.status_code == 422 and answer.json()["error"].startswith(reason)


def test_a_model_without_matching_says_so(matcher, monkeypatch):
    monkeypatch.setattr(matcher.model.config, "ranking", "contrastive")
    with TestClient(server.build_app(matcher), base_url="http://localhost") as client:
        for path, data in {"match": {"captions": "a"}, "proofread": {"caption": "a"}}.items():
            answer = client.post(f"/v1/{path}", files=[image()], data=data)
            assert answer.status_code == 422
            assert "was trained without (matching" in answer.json()["error"]
        assert client.post("/v1/embed", data={"texts": "a"}).is_success


def test_an_index_that_was_replaced_or_lost_is_told(matcher, photo_folder, tmp_path):
    search = PhotoSearch(matcher, photo_folder, tmp_path / "index")
    search.update()
    app = server.build_app(matcher, search)
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    with client, sqlite3.connect(tmp_path / "index" / "photos.sqlite") as index:
        index.execute("UPDATE about SET value = 'another' WHERE name = 'model'")
        index.commit()
        for answer in (
            client.post("/v1/search", data={"query": "a ball"}),
            client.get("/v1/photos/0"),
        ):
            assert answer.status_code == 503
            assert "start the server again" in answer.json()["error"]
        index.execute("DROP TABLE files")  # nobody could foresee that
        index.commit()
        answer = client.get("/v1/model")
        assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
        assert HEADERS.items() <= dict(answer.headers).items()


def test_a_person_is_told_what_to_do(client, matcher, monkeypatch):
    form = {"caption": "!!! ..."}
    answer = client.post("/v1/proofread", files=[image()], data=form)
    assert answer.json()["error"] == "the caption has no word that the model knows"

    def without_words(*_):
        raise NoWordHead

    monkeypatch.setattr(type(matcher), "proofread", without_words)
    answer = client.post("/v1/proofread", files=[image()], data={"caption": "a ball"})
    assert answer.status_code == 422
    assert answer.json()["error"] == "this model predicts no words; serve the pre-training run"


def test_what_is_not_read_of_a_caption_is_told(client, matcher):
    long = "a small red ball " * 20 + "end"
    (found,) = client.post("/v1/match", files=[image()], data={"captions": long}).json()
    checked = client.post("/v1/proofread", files=[image()], data={"caption": long}).json()
    assert found["unread"] == checked["unread"] and found["unread"].endswith(" end")
    assert len(long) == checked["words"][-1]["end"] + 1 + len(found["unread"])
    data = {"captions": "a мяч and a ball"}
    (found,) = client.post("/v1/match", files=[image()], data=data).json()
    assert (found["unread"], found["unknown"]) == ("", ["мяч"])


def test_errors_tell_nothing_of_the_request_or_the_machine(client):
    answers = [
        client.post("/v1/match", files=[image(b"secret-bytes")], data={"captions": "secret"}),
        client.post("/v1/fill", files=[image()], data={"text": "secret without a gap"}),
        client.post("/v1/proofread", files=[image()], data={"caption": "!!! ..."}),
        client.post("/v1/rank", files=[image(name="images")] * 4, data={"text": "secret"}),
        client.post("/v1/match", content=b"secret", headers={"content-type": "text/plain"}),
        client.get("/v1/secret"),
        client.delete("/v1/match"),
    ]
    assert [a.status_code for a in answers] == [422, 422, 422, 422, 422, 404, 405]
    for answer in answers:
        assert set(answer.json()) == {"error"}
        known = {*server.ERRORS.values(), *server.REASONS.values(), *server.TOO_MUCH.values()}
        assert answer.json()["error"] in known
        assert "secret" not in answer.text


def test_a_body_that_lies_about_its_length_is_cut_off(client):
    def chunks():
        for _ in range(400):
            yield b"x" * 1000

    kind = "multipart/form-data; boundary=b"
    answer = client.post("/v1/match", content=chunks(), headers={"content-type": kind})
    assert answer.status_code == 413


def test_foreign_hosts_and_pages_are_refused(client):
    for host, status in {
        "localhost:8000": 200,
        "127.0.0.1": 200,
        "[::1]:80": 200,
        "evil.example": 403,
        "localhost.evil.example:8000": 403,
        "": 403,
    }.items():
        assert client.get("/v1/model", headers={"host": host}).status_code == status, host
    for origin, status in {
        "http://localhost:8000": 200,
        "http://evil.example": 403,
        "null": 403,
        "http://[": 403,
    }.items():
        answer = client.get("/v1/model", headers={"origin": origin})
        assert answer.status_code == status, origin
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_hosts_are_allowed_however_they_are_written(matcher):
    hosts = frozenset({"MyServer.local", "fd00::5", "[FD00::6]", "FD00:0:0::7"})
    with TestClient(server.build_app(matcher, hosts=hosts)) as client:
        for host, status in {
            "MyServer.local:8000": 200,
            "myserver.LOCAL": 200,
            "[fd00::5]:8000": 200,
            "[fd00::6]": 200,
            "[fd00::7]:80": 200,
            "[fd00::8]": 403,
            "fd00": 403,
        }.items():
            assert client.get("/v1/model", headers={"host": host}).status_code == status, host


def test_the_page_needs_nothing_else(client):
    page = client.get("/").text
    assert "http" not in page and "<style" not in page and "style=" not in page
    script = client.get("/page.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "innerHTML" not in script.text and "//" not in script.text.replace("// ", "")
    assert client.get("/page.css").headers["content-type"].startswith("text/css")
    for name, value in HEADERS.items():
        assert client.get("/").headers[name] == value
    assert client.get("/docs").status_code == 404
    assert "/v1/proofread" in client.get("/openapi.json").json()["paths"]


def run_together(thread, run, items, timeout=20.0, begin=None):
    async def begins():  # gather starts in order: all items are waiting by now
        if begin is not None:
            begin.set()

    async def all_of_them():
        jobs = [thread.answer(run, item, timeout) for item in items]
        return (await asyncio.gather(*jobs, begins(), return_exceptions=True))[:-1]

    return asyncio.run(all_of_them())


def test_what_waits_together_is_answered_together():
    sizes, begun = [], threading.Event()

    def double(items):
        begun.wait(20)
        sizes.append(len(items))
        return [2 * item for item in items]

    thread = ModelThread(waiting=50, batch=8)
    assert run_together(thread, double, range(20), begin=begun) == [2 * i for i in range(20)]
    assert sum(sizes) == 20 and max(sizes) == 8 and len(sizes) <= 4
    thread.stop()


def test_a_bad_item_fails_alone():
    def inverse(items):
        return [1 / item for item in items]

    thread = ModelThread(waiting=50, batch=8)
    found = run_together(thread, inverse, [1, 0, 2, 4])
    assert isinstance(found.pop(1), ZeroDivisionError) and found == [1, 0.5, 0.25]
    assert run_together(thread, inverse, [5]) == [0.2]
    thread.stop()


def test_a_full_queue_and_a_slow_answer_are_told():
    free = threading.Event()

    def slow(items):
        free.wait(20)
        return items

    thread = ModelThread(waiting=3, batch=1)
    found = run_together(thread, slow, range(8), timeout=0.3)
    assert sum(isinstance(f, QueueFull) for f in found) >= 4
    assert all(isinstance(f, QueueFull | TimeoutError) for f in found)
    free.set()
    for _ in range(1000):  # until the thread has thrown out whom nobody waits for
        if not isinstance(found := run_together(thread, slow, [1])[0], QueueFull):
            break
        time.sleep(0.01)
    assert found == 1
    thread.stop()
    assert isinstance(run_together(thread, slow, [1])[0], QueueFull)
