-- name: audit_partitions
-- What the ledger has of each topic and partition, and within which offsets the batches lie that
-- landed in a time range (`since` to before `until`, epoch milliseconds; 0 and 0: at any time).
-- `in_first` is not below `in_end` where none did. `epoch`: the latest of any time.
SELECT
    topic_id,
    any(b.topic) AS topic,
    partition,
    count() AS parts,
    minIf(b.first, ranged) AS in_first,
    maxIf(b.end, ranged) AS in_end,
    max(b.epoch) AS epoch
FROM
(
    SELECT
        *,
        {until:Int64} = 0 OR (
            landed_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
            AND landed_at < fromUnixTimestamp64Milli({until:Int64}, 'UTC')) AS ranged
    FROM batches
) AS b
GROUP BY topic_id, partition
ORDER BY topic_id, partition
