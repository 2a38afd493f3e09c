"""What comes out of a client's calls, as what it is."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from schemas.callbacks import serving_callbacks

FATAL = KafkaException(KafkaError(KafkaError._FENCED, "fenced", fatal=True))


def raised_from(cause: BaseException | None) -> SystemError:
    error = SystemError("returned a result with an exception set")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [FATAL, raised_from(FATAL), raised_from(raised_from(FATAL))])
def test_a_fatal_error_is_itself_whether_or_not_something_was_logged(error: Exception) -> None:
    with pytest.raises(KafkaException) as raised, serving_callbacks():
        raise error
    assert raised.value is FATAL


@pytest.mark.parametrize("error", [raised_from(None), raised_from(ValueError()), ValueError()])
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, serving_callbacks():
        raise error
    assert raised.value is error
