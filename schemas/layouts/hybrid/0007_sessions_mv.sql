-- The keys of argMin and argMax are milliseconds, then bits of the event's hash: two events of the
-- same millisecond are ordered the same way whatever order they land in. 2^20 of them fit in 64 bits
-- until the year 2527.
--
-- `counted` is built with groupArray, which may name a key twice within one row; every reader merges
-- with maxMap, which makes one of them.
CREATE MATERIALIZED VIEW IF NOT EXISTS sessions_mv TO sessions AS
WITH
    sipHash64(id) AS hash,
    toUInt64(toUnixTimestamp64Milli(created_at)) * 1048576 AS at,
    at + hash % 1048576 AS by_time,
    at + if(referrer = '' AND utm_source = '', 524288, 0) + hash % 524288 AS by_origin,
    toUInt64(toUnixTimestamp64Milli(received_at)) * 1048576 + hash % 1048576 AS by_receipt
SELECT
    project_id,
    toDate(created_at) AS date,
    session_id,
    min(created_at) AS started_at,
    max(created_at) AS ended_at,
    mapFromArrays(
        groupArray(hash),
        groupArray(toUInt64(duration) * 2 + (name = 'screen_view'))
    ) AS counted,
    max(max_scroll) AS max_scroll,
    argMinStateIf(path, by_time, name = 'screen_view') AS entry_path,
    argMaxStateIf(path, by_time, name = 'screen_view') AS exit_path,
    argMinState(
        concatWithSeparator('\x1f',
            replaceAll(referrer, '\x1f', ' '),
            replaceAll(referrer_name, '\x1f', ' '),
            replaceAll(referrer_kind, '\x1f', ' '),
            replaceAll(utm_source, '\x1f', ' '),
            replaceAll(utm_medium, '\x1f', ' '),
            replaceAll(utm_campaign, '\x1f', ' '),
            replaceAll(utm_term, '\x1f', ' '),
            replaceAll(utm_content, '\x1f', ' '),
            replaceAll(click_id_kind, '\x1f', ' ')),
        by_origin
    ) AS origin,
    argMinState(
        concatWithSeparator('\x1f',
            replaceAll(country, '\x1f', ' '),
            replaceAll(city, '\x1f', ' '),
            replaceAll(device, '\x1f', ' '),
            replaceAll(browser, '\x1f', ' '),
            replaceAll(browser_version, '\x1f', ' '),
            replaceAll(os, '\x1f', ' '),
            replaceAll(os_version, '\x1f', ' '),
            toString(is_bot)),
        by_receipt
    ) AS visitor
FROM events
GROUP BY project_id, date, session_id;
