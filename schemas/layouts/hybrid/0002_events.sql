-- Every event once. The sort key is made only of what a client sends again unchanged, so an event
-- that a client sent twice is one row under FINAL, and of its copies the one received first stays
-- (`_version` grows as received_at falls), whatever order they landed in.
--
-- The underscored columns are the batch that brought the row: the table is its own ledger.
CREATE TABLE IF NOT EXISTS events
(
    id              UUID,
    project_id      LowCardinality(String),
    session_id      String,
    name            LowCardinality(String),
    created_at      DateTime64(3, 'UTC'),
    received_at     DateTime64(3, 'UTC'),
    path            String,
    previous_path   String,                 -- the page that duration was spent on
    duration        UInt32,                 -- whole seconds, an increment
    referrer        String,
    referrer_name   LowCardinality(String),
    referrer_kind   LowCardinality(String),
    utm_source      LowCardinality(String),
    utm_medium      LowCardinality(String),
    utm_campaign    LowCardinality(String),
    utm_term        String,
    utm_content     String,
    click_id_kind   LowCardinality(String),
    country         LowCardinality(String),
    city            String,
    device          LowCardinality(String),
    browser         LowCardinality(String),
    browser_version LowCardinality(String),
    os              LowCardinality(String),
    os_version      LowCardinality(String),
    max_scroll      UInt8,
    value           Decimal(18, 4),
    properties      Map(String, String),
    is_bot          UInt8,
    _topic_id       LowCardinality(String),
    _partition      UInt32,
    _first          UInt64,                 -- the batch is the offsets [_first, _end)
    _end            UInt64,
    _epoch          UInt32,
    _version        UInt64
)
ENGINE = ReplacingMergeTree(_version)
PARTITION BY toYYYYMM(created_at)
PRIMARY KEY (project_id, toDate(created_at), session_id)
ORDER BY (project_id, toDate(created_at), session_id, created_at, id)
SETTINGS non_replicated_deduplication_window = 100000, min_bytes_for_wide_part = 67108864;
