"""What img2dataset leaves beside images: for each shard a Parquet table with a status per row.

From its writer: columns ``key``, ``status`` (``success``, ``failed_to_download``, ...) and
``error_message``; the images are in a folder, a tar, or the table itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from vilta.data.sources.base import Place

STATUS, KEY, ERROR = "status", "key", "error_message"


def refuse_url_list(path: Place, columns: Collection[str] = ("url", "caption")) -> NoReturn:
    """Raise the ``ValueError`` that explains how to download the images of a list of URLs."""
    url = next((name for name in columns if name.lower() == "url"), "url")
    text = next((name for name in columns if name.lower() in ("caption", "text")), "caption")
    form = path.suffix[1:] if path.suffix in (".tsv", ".csv", ".parquet") else "json"
    head = " (it wants the line `caption<tab>url` at the top)" if form == "tsv" else ""
    raise ValueError(
        f"{path} lists addresses of images; download them with `img2dataset --url_list {path} "
        f"--input_format {form} --url_col {url} --caption_col {text} --output_format webdataset "
        f"--output_folder OUT`{head} and name OUT"
    )


def failure(row: Mapping[str, Any]) -> str | None:
    """Return why a row has no image, or None if it was downloaded or the row has no status."""
    status = row.get(STATUS)
    if status is None or status == "success":
        return None
    message = " ".join(str(row.get(ERROR) or "").split())
    return f"{status}: {message}" if message else str(status)


def failed_downloads(table: Place) -> Iterator[tuple[str, str]]:
    """Yield key and reason of each row of a shard's table that failed; nothing without a table."""
    if not table.is_file():
        return
    try:
        file = pq.ParquetFile(table.open("rb"))
        if not {STATUS, KEY} <= set(file.schema_arrow.names):
            return
        columns = [c for c in (KEY, STATUS, ERROR) if c in file.schema_arrow.names]
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                if (reason := failure(row)) is not None:
                    yield str(row[KEY]), reason
    except (OSError, pa.ArrowException) as error:
        yield table.name, f"cannot be read: {' '.join(str(error).split())}"
