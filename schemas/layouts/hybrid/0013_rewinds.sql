-- Offsets that were gone back to, or passed over, on purpose. `what` is so of [first, end), since `at`:
--   removed     none of its batches of an earlier epoch than `epoch` is there any more
--   skipped     it was not read
--   to skip     it may be passed over soon: nothing yet
--   read again  reading goes back to `first`: from there on nothing is skipped any more
CREATE TABLE IF NOT EXISTS rewinds
(
    topic_id  LowCardinality(String),
    topic     LowCardinality(String),
    partition UInt32,
    first     UInt64,
    end       UInt64,
    epoch     UInt32,
    what      Enum8('removed' = 0, 'skipped' = 1, 'to skip' = 2, 'read again' = 3),
    at        DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (topic_id, partition, first, end, at);
