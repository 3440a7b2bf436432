import copy

import pyarrow as pa

from nemf.io import store_errors
from pipeline.io.images import ImageError
from pipeline.matching.predictions import InvalidMatchError
from schemas.failures import ERROR_KINDS, FAILURE, Failure, FailureError


def test_a_failure_survives_arrow() -> None:
    failure = Failure("fetch", "timeout", "not there within 60 s")

    column = pa.array([failure._asdict(), None], FAILURE)

    assert Failure(**column[0].as_py()) == failure
    assert column[1].as_py() is None


def test_an_error_with_a_failure_has_its_message_as_text_and_survives_pickle() -> None:
    error = ImageError("fetch", "not_found", "a.jpg: there is no such file")

    copied = copy.copy(error)  # made again from its arguments, as by pickle

    assert isinstance(copied, FailureError)
    assert copied.failure == error.failure == ("fetch", "not_found", "a.jpg: there is no such file")
    assert str(copied) == "a.jpg: there is no such file"


def test_the_message_of_an_image_error_is_without_secrets() -> None:
    assert "hush" not in str(ImageError("fetch", "timeout", "https://me:hush@host/a.jpg: too slow"))


def test_every_kind_that_is_raised_is_listed() -> None:
    of_stores = {store_errors.NOT_FOUND, store_errors.PERMISSION_DENIED, store_errors.BAD_URI, store_errors.UNREADABLE}

    assert of_stores | store_errors.TRANSIENT <= set(ERROR_KINDS["fetch"])
    assert InvalidMatchError("not_finite", "").failure.kind in ERROR_KINDS["match"]
