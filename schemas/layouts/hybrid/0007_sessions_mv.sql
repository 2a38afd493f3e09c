CREATE MATERIALIZED VIEW IF NOT EXISTS sessions_mv TO sessions AS
WITH
    sipHash64(e.id) AS hash,
    toUInt64(toUnixTimestamp64Milli(e.created_at)) * 1048576 AS at,
    at + hash % 1048576 AS k,
    at + if(e.referrer = '' AND e.utm_source = '', 524288, 0) + hash % 524288 AS ka,
    toUInt64(toUnixTimestamp64Milli(e.received_at)) * 1048576 + hash % 1048576 AS kr
SELECT
    e.project_id AS project_id,
    toDate(e.created_at) AS date,
    e.session_id AS session_id,
    min(e.created_at) AS started_at,
    max(e.created_at) AS ended_at,
    maxMap(map(hash, toUInt64(e.duration) * 2 + (e.name = 'screen_view'))) AS counted,
    max(e.max_scroll) AS max_scroll,
    argMinStateIf(e.path, k, e.name = 'screen_view') AS entry_path,
    argMaxStateIf(e.path, k, e.name = 'screen_view') AS exit_path,
    argMinState((e.referrer, toString(e.referrer_name), toString(e.referrer_kind), toString(e.utm_source), toString(e.utm_medium), toString(e.utm_campaign), e.utm_term, e.utm_content, toString(e.click_id_kind)), ka) AS origin,
    argMinState((toString(e.country), e.city, toString(e.device), toString(e.browser), toString(e.browser_version), toString(e.os), toString(e.os_version), e.is_bot), kr) AS visitor
FROM events AS e
GROUP BY project_id, date, session_id;
