-- Where inserts go in. The Null engine keeps nothing: a row is parsed into plain types, checked, and
-- handed to the view that writes `events`. Parsing straight into LowCardinality and DateTime64
-- columns costs about twice as much.
--
-- One insert is one batch and one block, and carries its stamp as insert_deduplication_token:
--     cluster:topic_id:partition:first-end:count:digest:epoch:topic:rows_version:announced_ms
CREATE TABLE IF NOT EXISTS events_landing
(
    id              UUID,
    project_id      String,
    session_id      String,
    name            String,
    created_at      Int64,                  -- epoch milliseconds, as is received_at
    received_at     Int64,
    path            String,
    previous_path   String,
    duration        UInt64,                 -- wider than in `events`: a number too large for its
    max_scroll      UInt64,                 -- type wraps round silently, so the checks below decide
    referrer        String,
    referrer_name   String,
    referrer_kind   String,
    utm_source      String,
    utm_medium      String,
    utm_campaign    String,
    utm_term        String,
    utm_content     String,
    click_id_kind   String,
    country         String,
    city            String,
    device          String,
    browser         String,
    browser_version String,
    os              String,
    os_version      String,
    value           Decimal(18, 4),
    properties      Map(String, String),
    is_bot          UInt8,

    -- One row that breaks a rule refuses the whole insert before anything is written.
    CONSTRAINT id_present         CHECK id != toUUID('00000000-0000-0000-0000-000000000000'),
    CONSTRAINT project_id_present CHECK notEmpty(project_id),
    CONSTRAINT session_id_present CHECK notEmpty(session_id),
    CONSTRAINT name_present       CHECK notEmpty(name),
    -- from 2015-01-01 to before 2100-01-01, UTC
    CONSTRAINT created_at_sane    CHECK created_at >= 1420070400000 AND created_at < 4102444800000,
    -- later, and its readers break
    CONSTRAINT received_at_sane   CHECK received_at >= 0 AND received_at < 4102444800000,
    CONSTRAINT duration_sane      CHECK duration < 4294967296,
    CONSTRAINT max_scroll_sane    CHECK max_scroll <= 100
)
ENGINE = Null;
