import http.server
import re
import threading

import pytest
from huggingface_hub import constants

from vilta.model import places
from vilta.model.encoders import encoder_config, load_text_encoder
from vilta.model.language_model import load_tokenizer
from vilta.model.pixel_statistics import pixel_statistics
from vilta.model.places import check_place


@pytest.fixture
def online(monkeypatch):
    """As outside of the tests, where the hub may be asked; ``asked`` counts."""
    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(places, "hub_answers", lambda: bool(asked.append(1)))
    return asked


def test_what_is_here_needs_no_hub(online, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for source in (str(tmp_path), "owner/name", "owner"):
        check_place(source)
    assert not online


@pytest.mark.parametrize("source", ["mine/nothing", "runs/nothing", "./x", "a/b/c", "/x/y", "../x"])
def test_a_missing_folder_is_never_taken_for_a_hub_id(online, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for load in (load_tokenizer, load_text_encoder):
        with pytest.raises(ValueError, match=f"no such folder: {source}") as caught:
            load(source)
        assert "\n" not in str(caught.value)
    assert not online


def test_without_a_connection_a_hub_id_is_refused_at_once(online, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"which cannot be reached.*vilta pretrain-text") as caught:
        load_tokenizer("owner/name")
    assert "\n" not in str(caught.value) and online == [1]


def test_a_machine_set_offline_is_told_the_same(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for load in (load_tokenizer, encoder_config):
        with pytest.raises(
            ValueError, match=r"name a local folder, or begin with vilta pre"
        ) as told:
            load("owner/name")
        needs_none = re.findall("(?:pretrain-text|--model.image) (?:demo-image)?", str(told.value))
        assert needs_none == ["pretrain-text ", "--model.image demo-image"]


def test_a_preprocessor_out_of_reach_is_not_said_to_be_lacking(online, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"owner/name is on the hub, which cannot be reached"):
        pixel_statistics("owner/name")


def test_what_was_downloaded_before_serves_without_a_connection(online, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "try_to_load_from_cache", lambda *_: "cache/config.json")
    check_place("owner/name")
    assert constants.HF_HUB_OFFLINE is True


def test_a_hub_that_answers_is_asked(online, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "hub_answers", lambda: True)
    check_place("owner/name")
    assert constants.HF_HUB_OFFLINE is False


def test_whether_the_hub_answers(monkeypatch):
    """Any answer will do, an error page too; a port where nobody listens gives none."""

    class Unfriendly(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(503)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Unfriendly) as server:
        monkeypatch.setattr(places.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        places.hub_answers.cache_clear()
        assert places.hub_answers()
        server.shutdown()
    places.hub_answers.cache_clear()
    assert not places.hub_answers()
    places.hub_answers.cache_clear()


def test_a_run_is_not_its_model(tmp_path):
    """Such a folder has neither a model nor words, and it is told where they are."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for load in (load_tokenizer, load_text_encoder):
        with pytest.raises(ValueError, match=r"is a run; its model is in .*model$"):
            load(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"it has no tokenizer\.json, nor the files"):
        load_tokenizer(str(tmp_path / "empty"))
