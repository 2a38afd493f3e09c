-- Offsets that were gone back to, or passed over, on purpose: a row a range, written before anything
-- is changed. `skipped`: [first, end) was not read; otherwise its batches of an earlier epoch than
-- `epoch` were taken out, to be read and inserted again from `first` on.
CREATE TABLE IF NOT EXISTS rewinds
(
    topic_id  LowCardinality(String),
    topic     LowCardinality(String),
    partition UInt32,
    first     UInt64,
    end       UInt64,
    epoch     UInt32,
    skipped   UInt8,
    at        DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (topic_id, partition, first, end, at);
