-- name: session_list
-- The newest sessions that started in [start, end), newest first, with their last page and totals.
-- project_id String, start and end DateTime64(3, 'UTC'), limit UInt32
--
-- A session's rows are read from one day before `start` to one day after `end`: a session that goes
-- on beyond that, or that was silent for more than a day, is seen in part.
WITH splitByChar('\x1f', argMinMerge(s.origin)) AS origin_fields,
     splitByChar('\x1f', argMinMerge(s.visitor)) AS visitor_fields,
     maxMap(s.counted) AS events_counted
SELECT
    s.session_id AS session_id,
    min(s.started_at) AS started_at,
    max(s.ended_at) AS ended_at,
    intDiv(dateDiff('millisecond', min(s.started_at), max(s.ended_at)), 1000) AS duration,
    length(events_counted) AS events,
    arrayCount(x -> x % 2 = 1, mapValues(events_counted)) AS page_views,
    arraySum(x -> intDiv(x, 2), mapValues(events_counted)) AS engaged_seconds,
    page_views <= 1 AS is_bounce,
    max(s.max_scroll) AS max_scroll,
    argMinMerge(s.entry_path) AS entry_path,
    argMaxMerge(s.exit_path) AS exit_path,
    origin_fields[1] AS referrer,
    origin_fields[2] AS referrer_name,
    origin_fields[3] AS referrer_kind,
    origin_fields[4] AS utm_source,
    origin_fields[5] AS utm_medium,
    origin_fields[6] AS utm_campaign,
    origin_fields[7] AS utm_term,
    origin_fields[8] AS utm_content,
    origin_fields[9] AS click_id_kind,
    visitor_fields[1] AS country,
    visitor_fields[2] AS city,
    visitor_fields[3] AS device,
    visitor_fields[4] AS browser,
    visitor_fields[5] AS browser_version,
    visitor_fields[6] AS os,
    visitor_fields[7] AS os_version,
    toUInt8OrZero(visitor_fields[8]) AS is_bot
FROM sessions AS s
WHERE s.project_id = {project_id:String}
  AND s.date >= toDate({start:DateTime64(3, 'UTC')}) - 1
  AND s.date <= toDate({end:DateTime64(3, 'UTC')}) + 1
  AND s.session_id IN (
      SELECT session_id
      FROM sessions
      WHERE project_id = {project_id:String}
        AND date >= toDate({start:DateTime64(3, 'UTC')}) - 1
        AND date <= toDate({end:DateTime64(3, 'UTC')}) + 1
      GROUP BY session_id
      HAVING min(sessions.started_at) >= {start:DateTime64(3, 'UTC')}
         AND min(sessions.started_at) < {end:DateTime64(3, 'UTC')}
      ORDER BY min(sessions.started_at) DESC, session_id
      LIMIT {limit:UInt32})
GROUP BY s.session_id
ORDER BY started_at DESC, session_id
