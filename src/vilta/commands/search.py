"""`vilta search RUN FOLDER QUERY`: photos that match a text or resemble another photo."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from vilta.apps.image_input import open_image
from vilta.apps.matcher import Matcher
from vilta.apps.photo_search import Found, PhotoSearch, Query
from vilta.apps.run_calibration import say_uncalibrated
from vilta.apps.words import require_text, say_unread
from vilta.config.apps import SearchConfig
from vilta.config.ranges import check_config
from vilta.report.html import data_uri, document, require_html
from vilta.screen import command, counted, notes, print_json, progress, results, say_next, shown
from vilta.training.folder import replace_text, require_writable

THUMBNAIL = 320
"""Longest side of a photo in the gallery, in pixels."""


def run(run_folder: str, folder: str, query: str, config: SearchConfig) -> None:
    """Index ``folder``, search it and print the photos found; without a query, only index it.

    Raises ``ValueError`` in one line for anything the user can fix.
    """
    check_config(config)
    require_text([query, *config.plus, *config.minus])
    if config.out:
        require_html(config.out)
        require_writable(config.out)
    asked = Query.parse(query, config.plus, config.minus)
    like = open_image(config.like) if config.like else None
    matcher = Matcher(run_folder, device=config.device)
    search = PhotoSearch(matcher, Path(folder), Path(config.index) if config.index else None)
    if search.index.replaced:
        notes.print(f"the index {search.index.replaced}; building a new one")
    with progress("indexing") as tell:
        done = search.update(tell)
    if done.new or done.gone or done.skipped:
        notes.print(
            f"indexed {counted(done.new, 'new photo')}; {counted(done.gone, 'was', 'were')} deleted"
        )
    skipped = search.index.skipped()
    if config.why_skipped:
        if not skipped:
            notes.print("no file was left out")
        for path, reason in skipped:
            print_json({"path": str(path), "reason": reason}) if config.json else results.print(
                f"skipped {shown(path)}: {reason}"
            )
    elif skipped:
        notes.print(f"{counted(len(skipped), 'file')} cannot be read; --why-skipped lists them")
    if not asked.terms and like is None:
        indexed = counted(search.index.count(), "photo is", "photos are")
        notes.print(f"{indexed} indexed; give a text to search for")
        return
    # All are re-ranked: a photo that does not match must not take the place of one that does.
    most = max(config.top, config.rerank)
    if not search.index.count():
        notes.print(f"there are no photos in {shown(folder)}")
        return
    found = search.search(asked, like=like, top=most, rerank=most)
    threshold = matcher.search_threshold if config.threshold < 0 else config.threshold
    if asked.terms:
        say_uncalibrated(matcher)
        said = [asked.text, *asked.plus, *asked.minus]
        say_unread(matcher.tokenizer, said, matcher.model.config.max_text_tokens)
    well = [each for each in found if not each.probability < threshold]
    if asked.terms and matcher.matching:  # photos that were not re-ranked have no probability
        well = [each for each in well if not np.isnan(each.probability)]
    well = well[: config.top]
    _show(well, config)
    if not well:
        best = f" (the best: {shown(found[0].path)}, {found[0].probability:.0%})" if found else ""
        notes.print(f"nothing here matches well{best}; --threshold 0 always shows the best")
    if config.out:
        replace_text(Path(config.out), gallery(query or f"like {config.like}", well))
        notes.print(f"wrote {config.out}")
    wanted = [text for text, sign in asked.terms if sign > 0]
    if well and wanted and matcher.matching:
        say_next(command("match", run_folder, str(well[0].path), *wanted, "--out", "heat.png"))


def gallery(title: str, found: Sequence[Found]) -> str:
    """Return a page of the photos found, with inlined thumbnails."""
    cards = []
    for each in found:
        picture = open_image(each.path, THUMBNAIL)
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        chance = "" if np.isnan(each.probability) else f"{each.probability:.0%}"
        cards.append(
            f'<div class="card"><img src="{data_uri(np.asarray(picture))}" alt="">'
            f'<p class="text">{chance} <small>{escape(shown(each.path))}</small></p></div>'
        )
    empty = [] if found else ["<p>Nothing here matches well.</p>"]
    head = [f"<h1>{escape(title)}</h1>", *empty, '<div class="grid photos">']
    return document(title, [*head, *cards, "</div>"])


def _show(found: Sequence[Found], config: SearchConfig) -> None:
    for each in found:
        if config.json:
            print_json(each._asdict() | {"path": str(each.path)})
            continue
        chance = "     " if np.isnan(each.probability) else f"{each.probability:5.0%}"
        copies = f"  ({each.copies} copies)" if each.copies > 1 else ""
        results.print(f"{chance}  {each.score:7.2f}  {shown(each.path)}{copies}")
