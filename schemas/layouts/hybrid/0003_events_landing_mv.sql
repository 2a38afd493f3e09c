-- Converts a landed row and stamps it with the batch it came in.
--
-- The stamp is read from the insert's own deduplication token, a constant for the whole insert: it
-- costs nothing per row. An empty or short token (someone inserts by hand) gives an empty stamp; the
-- ...OrZero functions also keep CREATE from failing, when there is no token at all.
CREATE MATERIALIZED VIEW IF NOT EXISTS events_landing_mv TO events AS
WITH
    splitByChar(':', getSetting('insert_deduplication_token')) AS token,
    splitByChar('-', token[4]) AS range
SELECT
    id,
    project_id,
    session_id,
    name,
    fromUnixTimestamp64Milli(created_at, 'UTC')  AS created_at,
    fromUnixTimestamp64Milli(received_at, 'UTC') AS received_at,
    path,
    previous_path,
    duration,
    referrer,
    referrer_name,
    referrer_kind,
    utm_source,
    utm_medium,
    utm_campaign,
    utm_term,
    utm_content,
    click_id_kind,
    country,
    city,
    device,
    browser,
    browser_version,
    os,
    os_version,
    max_scroll,
    value,
    properties,
    is_bot,
    token[2]                  AS _topic_id,
    toUInt32OrZero(token[3])  AS _partition,
    toUInt64OrZero(range[1])  AS _first,
    toUInt64OrZero(range[2])  AS _end,
    toUInt32OrZero(token[7])  AS _epoch,
    toUInt64(greatest(4102444800000 - landing.received_at, 0)) AS _version
FROM events_landing AS landing;
