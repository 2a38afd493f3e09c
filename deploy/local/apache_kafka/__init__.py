"""One real Apache Kafka node from its published jars: no Docker, no installation, durable data.

`jars` brings them with Maven, once. `node` formats a folder, once, and runs one KRaft node (broker
and controller in one Java process) on it. `python -m deploy.local.apache_kafka` does both and stays
until it is told to stop.
"""
