"""The consumer: Kafka partitions into ClickHouse, exactly once. The protocol is in `partition`."""
