-- name: ledger_verdict
-- Do the batches of each topic and partition tile its offsets? One row a partition; `verdict` is 'ok'
-- or names what is wrong. Counted from the first batch that landed on.
--
-- gaps           ranges of offsets between two batches that no batch holds (missing_offsets in all). A
--                range whose every event was dead-lettered is such a gap, and a right one.
-- overlaps       batches that begin before an earlier one ends
-- doubles        parts of a batch that landed more than once, under the same epoch or another
-- short_batches  batches with fewer rows than expected: part of them has not landed, or rows were
--                dead-lettered
-- long_batches   batches with more
-- unknown_batches  batches of which nobody knows how many rows to expect: their rows here were lost and
--                written again from `events` (expected_rows = 0), and no later epoch landed over them
WITH
    parts AS
    (
        SELECT
            topic_id,
            any(b.topic) AS topic,
            partition,
            first,
            end,
            clickhouse_partition,
            max(b.expected_rows) AS expected_rows,
            max((b.epoch, b.expected_rows)) AS latest,
            min(b.expected_rows) AS least_expected,
            max(b.rows) AS rows,
            count() AS times
        FROM batches AS b
        GROUP BY topic_id, partition, first, end, clickhouse_partition
    ),
    tiles AS
    (
        SELECT
            topic_id,
            any(p.topic) AS topic,
            partition,
            first,
            end,
            max(p.expected_rows) AS expected_rows,
            max(p.latest).2 AS latest_expected,
            min(p.least_expected) AS least_expected,
            sum(p.rows) AS rows,
            sum(p.times - 1) AS doubles
        FROM parts AS p
        GROUP BY topic_id, partition, first, end
    ),
    placed AS
    (
        SELECT
            *,
            max(t.end) OVER before AS reached,
            count() OVER before AS earlier
        FROM tiles AS t
        WINDOW before AS (
            PARTITION BY topic_id, partition ORDER BY first, end
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    )
SELECT
    l.topic_id AS topic_id,
    any(l.topic) AS topic,
    l.partition AS partition,
    count() AS batches,
    min(l.first) AS first,
    max(l.end) AS end,
    sum(l.rows) AS rows,
    countIf(l.earlier > 0 AND l.first > l.reached) AS gaps,
    sumIf(l.first - l.reached, l.earlier > 0 AND l.first > l.reached) AS missing_offsets,
    countIf(l.earlier > 0 AND l.first < l.reached) AS overlaps,
    sum(l.doubles) AS doubles,
    countIf(l.rows < l.expected_rows) AS short_batches,
    countIf(l.rows > l.expected_rows AND l.least_expected > 0) AS long_batches,
    countIf(l.latest_expected = 0) AS unknown_batches,
    if(gaps + overlaps + doubles + short_batches + long_batches + unknown_batches = 0, 'ok',
        arrayStringConcat(arrayFilter(x -> x != '', [
            if(gaps > 0, 'gap', ''),
            if(overlaps > 0, 'overlap', ''),
            if(doubles > 0, 'double', ''),
            if(short_batches > 0, 'short', ''),
            if(long_batches > 0, 'long', ''),
            if(unknown_batches > 0, 'unknown', '')]), ', ')) AS verdict
FROM placed AS l
GROUP BY l.topic_id, l.partition
ORDER BY topic, topic_id, partition
