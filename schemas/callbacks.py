"""What the Kafka client raises out of a call that serves its callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from confluent_kafka import KafkaException, Producer


@contextmanager
def serving_callbacks() -> Iterator[None]:
    """For poll, consume, flush, close and a transaction's calls: a fatal error comes out of them as
    a KafkaException, whatever `error_cb` is.

    The client does not call that for a fatal error but sets the exception and goes on. When it then
    has a line for the log, the logger runs with the exception set, which Python takes for a
    SystemError with the exception as its cause."""
    try:
        yield
    except SystemError as error:
        cause = error.__cause__
        while isinstance(cause, SystemError):
            cause = cause.__cause__
        if not isinstance(cause, KafkaException):
            raise
        raise cause from None


def give_up(producer: Producer) -> None:
    """Forget what it still has under way; who waits for that is answered so."""
    producer.purge()
    with suppress(KafkaException), serving_callbacks():
        producer.flush(1)
