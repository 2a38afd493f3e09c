-- name: audit_stamps
-- The same parts as the rows' own stamps have them, in the same order. Rows that came without a
-- batch have no topic id. With `ranges`, only ClickHouse partitions in `partitions` are read, where
-- any are named, and rows without a batch are those received from `since` to before `until`.
SELECT
    _topic_id AS topic_id,
    _partition AS partition,
    _first AS first,
    _end AS end,
    _epoch AS epoch,
    _partition_id AS clickhouse_partition,
    count() AS rows
FROM events
WHERE _topic_id NOT IN {other_topic_ids:Array(String)}
  AND (empty({ranges:Array(Tuple(String, UInt32, UInt64, UInt64))})
       OR ((empty({partitions:Array(String)}) OR _partition_id IN {partitions:Array(String)})
           AND (arrayExists(r -> r.1 = _topic_id AND r.2 = _partition AND _first < r.4
                                 AND _end > r.3,
                            {ranges:Array(Tuple(String, UInt32, UInt64, UInt64))})
                OR (_topic_id = ''
                    AND received_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
                    AND received_at < fromUnixTimestamp64Milli({until:Int64}, 'UTC')))))
GROUP BY topic_id, partition, first, end, epoch, clickhouse_partition
ORDER BY topic_id, partition, first, end, epoch, clickhouse_partition
SETTINGS max_bytes_before_external_group_by = 1000000000, max_bytes_before_external_sort = 1000000000
