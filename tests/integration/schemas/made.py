"""Made events, and what the named queries must say about them, computed without any SQL.

The stream has what breaks session tables: sessions over midnight and month end, events that come
late and out of order, page views without a path, custom events, sessions without a page view,
unicode, and times at the last millisecond of a day. No two events of a session share a millisecond,
so "first" and "last" are what they seem.
"""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

Event = dict[str, Any]

START = datetime(2026, 10, 28, tzinfo=UTC)
DAYS = 7  # over the end of October
PROJECTS = ("demo", "other")
_PATHS = ("/", "/docs", "/docs/größe", "/価格", "/a?b=c&d='e'", "")
_NAMES = ("screen_view", "screen_view", "screen_view", "page_leave", "sign_up", "🎉")
_ORIGIN = (
    "referrer",
    "referrer_name",
    "referrer_kind",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "utm_term",
    "utm_content",
    "click_id_kind",
)
_VISITOR = ("country", "city", "device", "browser", "browser_version", "os", "os_version")


def milliseconds(at: datetime) -> int:
    return int(at.timestamp()) * 1000 + at.microsecond // 1000


def moment(at: int) -> datetime:
    return datetime.fromtimestamp(at // 1000, UTC) + timedelta(milliseconds=at % 1000)


def make(sessions: int, seed: int) -> list[Event]:
    """Events in the order in which they arrive."""
    chance = random.Random(seed)
    events: list[Event] = []
    for number in range(sessions):
        events.extend(_session(chance, number))
    events.sort(key=lambda event: (event["received_at"], event["id"]))
    return events


def _session(chance: random.Random, number: int) -> Iterable[Event]:
    project = chance.choice(PROJECTS)
    at = milliseconds(START) + chance.randrange(DAYS * 86_400_000)
    if number % 10 == 0:  # begins just before midnight
        at -= at % 86_400_000 + chance.randrange(1, 600_000)
    if number % 50 == 0:  # ... at the last millisecond of October
        at = milliseconds(datetime(2026, 11, 1, tzinfo=UTC)) - 1
    visitor = {name: chance.choice((f"{name} ä", f"{name} 2", "")) for name in _VISITOR}
    origin = {name: chance.choice((f"{name} 1", f"{name}\x1f2", "")) for name in _ORIGIN}
    custom_only = number % 17 == 0
    path = ""
    for place in range(chance.randrange(1, 25)):
        name = "sign_up" if custom_only else chance.choice(_NAMES)
        previous, path = path, path if name == "page_leave" else chance.choice(_PATHS)
        event: Event = {
            "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "project_id": project,
            "session_id": f"session-{number}-ß",
            "name": name,
            "created_at": at,
            # some come hours later, after newer ones
            "received_at": at + chance.choice((5, 900, 4_000, 7_200_000)) + place,
            "path": path,
            "previous_path": previous,
            "duration": chance.choice((0, 3, 17, 600)) if previous else 0,
            "max_scroll": chance.randrange(101) if name == "page_leave" else 0,
            **visitor,
        }
        if place in (0, 1) and chance.random() < 0.6:
            event.update(origin)
        if chance.random() < 0.1:
            event["properties"] = {"ключ": "значение"}
            event["is_bot"] = 1
        yield {key: value for key, value in event.items() if value not in ("", 0)}
        at += chance.randrange(1, 900_000)


def resent(events: Sequence[Event], share: float, seed: int) -> list[Event]:
    """Copies of some events as a client sends them again: received later, from elsewhere."""
    chance = random.Random(seed)
    copies = chance.sample(list(events), int(len(events) * share))
    return [
        {**event, "received_at": event["received_at"] + 86_400_000, "country": "XX", "city": "X"}
        for event in copies
    ]


def session_list(events: Sequence[Event], project: str, first: int, end: int) -> list[Any]:
    """One row a session that started in [first, end), as `session_list` answers."""
    sessions: Mapping[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["project_id"] == project:
            sessions[event["session_id"]].append(event)
    rows = []
    for session_id, its in sessions.items():
        its.sort(key=lambda event: event["created_at"])
        started, ended = its[0]["created_at"], its[-1]["created_at"]
        if not first <= started < end:
            continue
        views = [event for event in its if event["name"] == "screen_view"]
        origin = its[0]
        visitor = min(its, key=lambda event: int(event["received_at"]))
        rows.append(
            (
                session_id,
                moment(started),
                moment(ended),
                (ended - started) // 1000,
                len(its),
                len(views),
                sum(event.get("duration", 0) for event in its),
                int(len(views) <= 1),
                max(event.get("max_scroll", 0) for event in its),
                views[0].get("path", "") if views else "",
                views[-1].get("path", "") if views else "",
                *(origin.get(name, "").replace("\x1f", " ") for name in _ORIGIN),
                *(visitor.get(name, "") for name in _VISITOR),
                visitor.get("is_bot", 0),
            )
        )
    return sorted(rows, key=lambda row: (-milliseconds(row[1]), row[0]))


def dashboard(events: Sequence[Event], project: str, first: date, end: date) -> list[Any]:
    days: Mapping[date, list[Event]] = defaultdict(list)
    for event in events:
        day = moment(event["created_at"]).date()
        if event["project_id"] == project and first <= day < end:
            days[day].append(event)
    rows = []
    for day, its in sorted(days.items()):
        sessions = len({event["session_id"] for event in its})
        views = sum(event["name"] == "screen_view" for event in its)
        engaged = sum(event.get("duration", 0) for event in its)
        rows.append((day, sessions, len(its), views, engaged, engaged / sessions))
    return rows


def pages(events: Sequence[Event], project: str, first: date, end: date) -> list[Any]:
    viewed: Mapping[str, list[Event]] = defaultdict(list)
    timed: Mapping[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["project_id"] != project:
            continue
        if not first <= moment(event["created_at"]).date() < end:
            continue
        if event["name"] == "screen_view" and event.get("path"):
            viewed[event["path"]].append(event)
        if event.get("previous_path"):
            timed[event["previous_path"]].append(event)
    rows = []
    for path in viewed.keys() | timed.keys():
        spent = sum(event.get("duration", 0) for event in timed[path])
        pairs = len({event["session_id"] for event in timed[path]})
        rows.append(
            (
                path,
                len(viewed[path]),
                len({event["session_id"] for event in viewed[path]}),
                len(timed[path]),
                spent,
                pairs,
                spent / pairs if pairs else 0,
            )
        )
    return sorted(rows, key=lambda row: (-row[4], -row[1], row[0].encode()))


def live(events: Sequence[Event], project: str, now: int, minutes: int) -> tuple[int, int, int]:
    its = [
        event
        for event in events
        if event["project_id"] == project and now - minutes * 60_000 < event["created_at"] <= now
    ]
    views = sum(event["name"] == "screen_view" for event in its)
    return len({event["session_id"] for event in its}), len(its), views
