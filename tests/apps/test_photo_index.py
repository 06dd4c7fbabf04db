import os
import shutil
import sqlite3
import sys

import numpy as np
import pytest
from small_run import noise

from vilta import Matcher
from vilta.apps import photo_index, photo_search
from vilta.apps.image_input import pixels_of
from vilta.apps.photo_index import PhotoIndex, cosines
from vilta.apps.photo_search import PhotoSearch, Query, index_place
from vilta.apps.released import hash_of_weights
from vilta.decoding import bounded_bytes


@pytest.fixture(scope="module")
def matcher(tiny_run):
    return Matcher(tiny_run, device="cpu")


def names(photos):
    return {photo.path.name for photo in photos}


@pytest.fixture
def search(matcher, photo_folder, tmp_path):
    return PhotoSearch(matcher, photo_folder, tmp_path / "index")


def test_every_photo_is_indexed_with_its_embedding(search, matcher):
    assert search.update() == (6, 0, 0, 0)
    photos, vectors = search.index.photos(), search.index.vectors()
    assert names(photos) == {*(f"photo {i}.png" for i in range(5)), "Ünïcode ✓.PNG"}
    wanted = matcher.embed_images([p.path for p in photos])
    np.testing.assert_allclose(vectors[[p.row for p in photos]], wanted, atol=2e-3)
    assert vectors.dtype == np.float16


def test_only_what_changed_is_looked_at_again(search, photo_folder):
    search.update()
    assert search.update() == (0, 6, 0, 0)
    noise(77).save(photo_folder / "photo 1.png")
    (photo_folder / "photo 2.png").unlink()
    shutil.move(photo_folder / "photo 3.png", photo_folder / "moved.png")
    rows = len(search.index.vectors())
    assert search.update() == (2, 3, 2, 0)
    assert len(search.index.vectors()) == rows + 1  # the moved one was known by its content
    assert names(search.index.photos()) >= {"moved.png", "photo 1.png"}
    assert "photo 2.png" not in names(search.index.photos())


def test_copies_are_one_photo(search, photo_folder):
    shutil.copy(photo_folder / "photo 0.png", photo_folder / "copy of it.png")
    search.update()
    photos = search.index.photos()
    assert len(photos) == 6 and sorted(p.copies for p in photos) == [1, 1, 1, 1, 1, 2]


def test_one_photo_is_found_and_all_are_counted_without_a_list(search, photo_folder):
    assert (search.index.count(), search.index.path(0)) == (0, None)
    shutil.copy(photo_folder / "photo 0.png", photo_folder / "copy of it.png")
    search.update()
    (photo_folder / "photo 3.png").unlink()
    search.update()
    photos = search.index.photos()
    assert search.index.count() == len(photos) == 5
    places = [search.index.path(row) for row in range(len(search.index.vectors()) + 1)]
    assert places.count(None) == 2
    assert {photo.row: photo.path for photo in photos} == {
        row: path for row, path in enumerate(places) if path is not None
    }


def test_what_cannot_be_read_is_told_and_odd_names_are_no_hindrance(search, photo_folder):
    (photo_folder / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")
    (photo_folder / "empty.png").write_bytes(b"")
    (photo_folder / "._photo 1.png").write_bytes(b"resource fork")
    (photo_folder / ".hidden").mkdir()
    noise(1).save(photo_folder / ".hidden" / "x.png")
    os.symlink("nowhere", photo_folder / "link.jpg")
    odd = os.path.join(os.fsencode(photo_folder), b"latin-\xe9.png")
    shutil.copy(os.fsencode(photo_folder / "photo 4.png"), odd)
    noise(50).save(photo_folder / "new\nline.png")
    assert search.update() == (8, 0, 0, 2)
    skipped = {path.name: reason for path, reason in search.index.skipped()}
    assert set(skipped) == {"broken.jpg", "empty.png"} and skipped["empty.png"] == "empty file"
    assert search.update().unchanged == 10
    found = search.search(Query("ball"), top=20)
    assert len(found) == 7 and all(each.path.is_file() for each in found)


def test_heic_is_read_with_its_extra_and_again_once_that_is_installed(
    search, photo_folder, monkeypatch
):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(noise(60)).save(photo_folder / "phone.HEIC", quality=90)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        assert search.update() == (6, 0, 0, 1)
    assert search.index.skipped() == [
        (photo_folder / "phone.HEIC", "a HEIC photo; pip install 'vilta[heic]' reads it")
    ]
    assert search.update() == (1, 6, 0, 0)
    assert "phone.HEIC" in names(search.index.photos()) and not search.index.skipped()
    assert search.update() == (0, 7, 0, 0)


def test_a_file_that_the_system_refused_is_tried_again(photo_folder, tmp_path, monkeypatch):
    """Neither a permission nor a network that comes back changes its size or its time."""
    index = PhotoIndex(photo_folder, tmp_path / "index", "model", 3)

    def refused(path):
        if path.name == "photo 1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return bounded_bytes(path)

    with monkeypatch.context() as locked:
        locked.setattr(photo_index, "bounded_bytes", refused)
        for new, unchanged in ((5, 0), (0, 5)):
            assert index.update(colours, 16) == (new, unchanged, 0, 1)
    assert index.skipped() == [(photo_folder / "photo 1.png", "Permission denied")]
    assert index.update(colours, 16) == (1, 5, 0, 0) and not index.skipped()


@pytest.mark.parametrize("left", [None, 0, 1, 5])
def test_an_index_that_lost_vectors_is_built_anew(photo_folder, tmp_path, left):
    place = tmp_path / "index"
    whole = PhotoIndex(photo_folder, place, "model", 3)
    whole.update(colours, 16)
    wanted = np.array(whole.vectors())
    whole.close()
    if left is None:
        (place / "vectors.f16").unlink()
    else:
        os.truncate(place / "vectors.f16", left * 3 * 2 + 1)
    again = PhotoIndex(photo_folder, place, "model", 3)
    assert again.replaced and again.photos() == []
    assert again.update(colours, 16).new == 6
    np.testing.assert_array_equal(again.vectors(), wanted)
    assert not PhotoIndex(photo_folder, place, "model", 3).replaced


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_killed_update_goes_on(matcher, photo_folder, tmp_path, monkeypatch, after):
    monkeypatch.setattr("vilta.apps.photo_index.BATCH", 2)
    search = PhotoSearch(matcher, photo_folder, tmp_path / "index")
    calls = []

    class Killed(Exception):
        pass

    def encode(pixels):
        if len(calls) == after:
            raise Killed
        calls.append(len(pixels))
        return whole(pixels)

    whole = matcher.encode_pixels
    with monkeypatch.context() as patch:
        patch.setattr(matcher, "encode_pixels", encode)
        with pytest.raises(Killed):
            search.update()
    search.index.close()
    with open(tmp_path / "index" / "vectors.f16", "ab") as file:
        file.write(b"half a row that no transaction names")
    again = PhotoSearch(matcher, photo_folder, tmp_path / "index")
    assert again.update() == (6 - 2 * after, 2 * after, 0, 0)
    photos = again.index.photos()
    wanted = matcher.embed_images([p.path for p in photos])
    rows = again.index.vectors()[[p.row for p in photos]]
    np.testing.assert_allclose(rows, wanted, atol=2e-3)


def test_another_model_means_another_index(search, matcher, photo_folder, tmp_path):
    search.update()
    same = PhotoIndex(photo_folder, tmp_path / "index", hash_of_weights(matcher.model), 16)
    assert not same.replaced and len(same.photos()) == 6
    other = PhotoIndex(photo_folder, tmp_path / "index", "another", 16)
    assert other.replaced and other.photos() == [] and other.vectors().shape == (0, 16)


def colours(pixels):
    return pixels.float().mean(dim=(2, 3)).numpy()


def test_two_processes_at_once_fill_one_index(photo_folder, tmp_path):
    """While one embeds its first batch, the other stores it all, and a photo that is new."""

    def open_index():
        return PhotoIndex(photo_folder, tmp_path / "index", "model", 3)

    first, second = open_index(), open_index()

    def late(pixels):
        noise(99).save(photo_folder / "a new one.png")
        second.update(colours, 16)
        return colours(pixels)

    first.update(late, 16)
    for index in (first, second):
        photos, vectors = index.photos(), index.vectors()
        assert len(photos) == len(vectors) == 7
        for photo in photos:
            wanted = colours(pixels_of([photo.path], 16))[0]
            np.testing.assert_allclose(vectors[photo.row], wanted, rtol=1e-3)


def test_a_model_never_writes_into_the_index_of_another(photo_folder, tmp_path):
    ours = PhotoIndex(photo_folder, tmp_path / "index", "ours", 3)
    ours.update(colours, 16)
    mapped = ours.vectors()
    other = PhotoIndex(photo_folder, tmp_path / "index", "other", 3)
    assert mapped.sum() > 0  # a file that shrinks would end the process here
    noise(99).save(photo_folder / "a new one.png")
    for use in (lambda: ours.update(colours, 16), ours.vectors):
        with pytest.raises(ValueError, match="was replaced, for another model or folder"):
            use()
    assert other.photos() == []


def test_each_model_has_its_own_default_index(photo_folder):
    assert index_place(photo_folder, "a") == index_place(photo_folder, "a")
    assert index_place(photo_folder, "a") != index_place(photo_folder, "b")


def test_an_index_that_cannot_be_written_is_an_error_in_one_line(photo_folder, tmp_path):
    index = PhotoIndex(photo_folder, tmp_path / "index", "model", 3)
    index._db.execute("PRAGMA query_only = 1")
    with pytest.raises(ValueError, match=r"index cannot be used: [^\n]+$"):
        index.update(colours, 16)


def test_a_weight_more_or_less_is_another_model(tiny_run):
    model = Matcher(tiny_run, device="cpu").model
    before = hash_of_weights(model)
    assert before == hash_of_weights(Matcher(tiny_run, device="cpu").model)
    model.itm_head.out.bias.data[0] += 1e-4
    assert hash_of_weights(model) != before


def test_search_ranks_as_the_matcher_does(search, matcher):
    search.update()
    paths = [photo.path for photo in search.index.photos()]
    ranked = matcher.rank("a red ball", paths, rerank=4)
    found = search.search(Query("a red ball"), rerank=4, top=6)
    assert [f.path for f in found] == [paths[r.index] for r in ranked]
    np.testing.assert_allclose([f.score for f in found], [r.score for r in ranked], atol=0.1)
    assert [np.isnan(f.probability) for f in found] == [False] * 4 + [True] * 2


def test_many_photos_are_matched_some_at_a_time(search, matcher, monkeypatch):
    """The encoder's states of all of them could be larger than the machine."""
    search.update()
    encode, held = matcher.encode_images, []
    monkeypatch.setattr(matcher, "encode_images", lambda x: held.append(len(x)) or encode(x))
    whole = search.search(Query("a red ball"), top=6)
    search._recent.clear()
    monkeypatch.setattr(photo_search, "PHOTOS_PER_CALL", 4)
    found = search.search(Query("a red ball"), top=6)
    assert held == [6, 4, 2] and [each.path for each in found] == [each.path for each in whole]
    np.testing.assert_allclose([f.score for f in found], [f.score for f in whole], atol=1e-4)


def test_like_finds_the_image_itself_first(search, photo_folder):
    search.update()
    found = search.search(like=photo_folder / "photo 3.png", top=3)
    assert found[0].path.name == "photo 3.png" and len(found) == 3
    assert found[0].score >= found[1].score and np.isnan(found[0].probability)


def test_terms_add_and_take_away(search, matcher):
    search.update()
    query = Query.parse("a ball +green cube -two dogs", plus=["grass"])
    assert query == Query("a ball", ("grass", "green cube"), ("two dogs",))
    assert Query.parse("a t-shirt 1+1") == Query("a t-shirt 1+1")
    assert Query.parse("-dogs") == Query("", (), ("dogs",))
    best = search.search(query, top=1)[0]
    p = matcher.match(best.path, ["a ball", "grass", "green cube", "two dogs"])
    assert best.probability == pytest.approx(float(p[0] * p[1] * p[2] * (1 - p[3])), abs=1e-4)


def test_photos_that_can_no_longer_be_read_are_left_out(search, photo_folder, tmp_path):
    search.update()
    before = search.search(Query("a ball"), top=10)
    again = PhotoSearch(search.matcher, photo_folder, tmp_path / "index")
    (photo_folder / "photo 0.png").unlink()
    half = (photo_folder / "photo 2.png").read_bytes()[:300]
    (photo_folder / "photo 2.png").write_bytes(half)
    left = [each for each in before if each.path.name not in ("photo 0.png", "photo 2.png")]
    assert again.search(Query("a ball"), top=10) == left
    for path in photo_folder.rglob("*.*"):
        path.write_bytes(half)
    again = PhotoSearch(search.matcher, photo_folder, tmp_path / "index")
    assert again.search(Query("a ball"), top=10) == []


def test_nothing_to_find(search, matcher, tmp_path):
    assert search.search(Query("a ball")) == []
    with pytest.raises(ValueError, match="nothing to search for"):
        search.search(Query.parse("  "))
    with pytest.raises(ValueError, match="no such folder"):
        PhotoSearch(matcher, tmp_path / "nothing", tmp_path / "index2")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be used"):
        PhotoSearch(matcher, tmp_path / "empty", tmp_path / "file" / "below")


def test_an_index_that_is_damaged_is_an_error_in_one_line(tmp_path):
    for name, value in {"empty": b"", "text": b"not a data base", "bytes": b"\xff\n\xfe"}.items():
        place = tmp_path / name
        if name != "bytes":
            place.mkdir()
            (place / "photos.sqlite").write_bytes(value)
            continue
        PhotoIndex(tmp_path, place, "model", 4).close()
        with sqlite3.connect(place / "photos.sqlite") as db:
            db.execute("UPDATE about SET value = CAST(? AS TEXT)", (value,))
        db.close()
    PhotoIndex(tmp_path, tmp_path / "empty", "model", 4).close()
    for name in ("text", "bytes"):
        with pytest.raises(ValueError, match=r"cannot be used: [^\n]+$"):
            PhotoIndex(tmp_path, tmp_path / name, "model", 4)


def test_cosines_are_exact_to_half_precision():
    rng = np.random.default_rng(0)
    vectors, query = rng.normal(size=(20_000, 8)).astype(np.float16), rng.normal(size=8)
    wanted = vectors.astype(np.float64) @ query
    np.testing.assert_allclose(cosines(vectors, query.astype(np.float32)), wanted, atol=1e-4)
