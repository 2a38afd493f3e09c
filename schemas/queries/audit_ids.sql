-- name: audit_ids
-- How many of some ids the table has, whoever brought them. `least` and `most`: the bounds of their
-- created_at in epoch milliseconds, which prune what is read.
SELECT uniqExact(id) AS ids
FROM events
WHERE created_at >= fromUnixTimestamp64Milli({least:Int64}, 'UTC')
  AND created_at <= fromUnixTimestamp64Milli({most:Int64}, 'UTC')
  AND id IN {ids:Array(UUID)}
