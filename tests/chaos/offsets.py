"""`python -m tests.chaos.offsets SERVERS TOPIC PARTITIONS GROUP TO`: move offsets by hand.

Without metadata, as the tools of others do. TO: `none` forgets them; `start`, `middle` and `end`
put them at that share of what was committed. Exit code 1 while the group has members, or Kafka is
away.

A program of its own, because librdkafka's admin client can abort its process when a broker dies
under a request.
"""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

_SHARES = {"start": 0.0, "middle": 0.5, "end": 1.0}


def move(servers: str, topic: str, partitions: int, group: str, to: str) -> None:
    """Raises KafkaException or TimeoutError where that cannot be done now."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    if admin.describe_consumer_groups([group], request_timeout=3)[group].result(5).members:
        raise TimeoutError("the group has members")
    if to == "none":
        admin.delete_consumer_groups([group], request_timeout=3)[group].result(5)
        return
    reader = Consumer({"bootstrap.servers": servers, "group.id": group, "log_level": 0})
    found = reader.committed([TopicPartition(topic, n) for n in range(partitions)], timeout=5)
    moved = [
        TopicPartition(topic, at.partition, int(max(0, at.offset) * _SHARES[to])) for at in found
    ]
    reader.close()
    wanted = [ConsumerGroupTopicPartitions(group, moved)]
    admin.alter_consumer_group_offsets(wanted, request_timeout=3)[group].result(5)


def main(servers: str, topic: str, partitions: str, group: str, to: str) -> int:
    try:
        move(servers, topic, int(partitions), group, to)
    except (KafkaException, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
