"""What is muted in threads is heard again after them."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from PIL import Image
from small_run import noise

from vilta.decoding import decode_image, decode_pixels
from vilta.muting import muted


def png(seed):
    file = io.BytesIO()
    noise(seed).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("decode", [decode_image, decode_pixels])
def test_threads_that_decode_leave_the_warnings_of_the_program_alone(decode):
    images = [png(seed) for seed in range(40)] * 10
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(decode, images))) == len(images)
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="the program's own"):
        warnings.warn("the program's own", stacklevel=1)


def test_the_last_one_out_ends_it():
    """In the order of threads, which need not leave in the order in which they came."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        first, second = ExitStack(), ExitStack()
        first.enter_context(muted)
        second.enter_context(muted)
        first.close()
        warnings.warn("muted", stacklevel=1)
        with pytest.raises(Image.DecompressionBombWarning):
            warnings.warn("a bomb", Image.DecompressionBombWarning, stacklevel=1)
        second.close()
        warnings.warn("heard", stacklevel=1)
    assert [str(each.message) for each in heard] == ["heard"]
