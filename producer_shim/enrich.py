"""What the server adds to an event: its time, its id, and what it finds in the request.

A public key's `created_at` is the client's clock. When `sent_at` shows that clock to be off by more
than a minute, it is corrected by whole minutes (a resend, sent at another time, then lands on the
same time again), and kept within the last three days. A secret key's is taken as it is, and refused
when it cannot be meant.

Findings are made once for what repeats, a page's referrer or a browser's name, and kept as the JSON
that goes into the record. The caches are bounded: a full one is emptied.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import msgspec
import orjson
from msgspec import UNSET, UnsetType

from schemas.event import NAME_CHARACTERS, Event, Refused, milliseconds

from .projects import Grant

PAST_MILLISECONDS: Final = 3 * 86_400_000
FUTURE_MILLISECONDS: Final = 86_400_000
FIRST_MILLISECONDS: Final = 1_420_070_400_000  # 2015-01-01: before it no server had one to send
_MINUTE: Final = 60_000
_CACHE: Final = 10_000

_CLICK_IDS: Final = (
    "gclid", "gbraid", "wbraid", "dclid", "fbclid", "msclkid", "ttclid", "twclid", "li_fat_id",
    "igshid", "epik", "rdt_cid", "sccid", "yclid", "mc_eid",
)  # fmt: skip
_UTM: Final = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content")
# Programs that name themselves as such. Plain HTTP clients (curl, a server's library) are not
# among them: who sends with one on purpose wants to be counted.
_BOT: Final = re.compile(
    rb"bot\b|bot[/;,-]|crawl|spider|slurp|headless|lighthouse|phantomjs|selenium|puppeteer|"
    rb"facebookexternalhit|mediapartners|preview|archiver|monitor|pingdom|scrap",
    re.IGNORECASE,
)

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
_encode: Final = _ENCODER.encode


def correction(sent_at: datetime | int | UnsetType, now: int) -> int:
    """Milliseconds to add to a client's times: whole minutes, 0 when its clock is right."""
    if sent_at is UNSET:
        return 0
    off = now - milliseconds(sent_at)
    return round(off / _MINUTE) * _MINUTE if abs(off) > _MINUTE else 0


def finish(event: Event, grant: Grant, now: int, corrected_by: int) -> None:
    """Make a settled event ready for its record, in place. Raises Refused."""
    if event.project_id and event.project_id != grant.project_id:
        raise Refused("other_project", "project_id", "project_id is not the project of the key")
    event.project_id = grant.project_id
    if event.id is UNSET:
        event.id = uuid7(now)
    created_at = event.created_at
    if created_at is UNSET:
        event.created_at = now
    elif grant.public:
        created = milliseconds(created_at) + corrected_by
        earliest = now - PAST_MILLISECONDS
        event.created_at = now if created > now else max(created, earliest)
    elif not FIRST_MILLISECONDS <= milliseconds(created_at) <= now + FUTURE_MILLISECONDS:
        raise Refused(
            "bad_time", "created_at", "created_at must be after 2015 and at most a day ahead"
        )
    if grant.public:
        # The server's findings; what the body says about them counts for nothing.
        event.country = event.city = event.device = event.browser = ""
        event.browser_version = event.os = event.os_version = ""


def tail(now: int, is_bot: bool) -> bytes:
    """What ends every line of a request."""
    return b',"received_at":%d,"is_bot":1}' % now if is_bot else b',"received_at":%d}' % now


def line(event: Event, ending: bytes) -> bytes:
    """The record's line of a finished event; `ending` from `tail`."""
    referrer = event.referrer
    if referrer:
        found = _referrers.get(referrer)
        ending = (_referrer(referrer) if found is None else found) + ending
    if "?" in event.path:
        ending = _from_query(event) + ending
    return _encode(event)[:-1] + ending


def uuid7(now: int) -> UUID:
    """A UUIDv7: it sorts by its millisecond."""
    random = int.from_bytes(os.urandom(10), "big")
    return UUID(
        int=(now & 0xFFFF_FFFF_FFFF) << 80
        | 0x7000 << 64
        | (random >> 68) << 64
        | 0x8000_0000_0000_0000
        | (random & 0x3FFF_FFFF_FFFF_FFFF)
    )


def is_bot(user_agent: bytes) -> bool:
    known = _bots.get(user_agent)
    if known is None:
        if len(_bots) >= _CACHE:
            _bots.clear()
        known = _bots[user_agent] = _BOT.search(user_agent) is not None
    return known


def _referrer(referrer: str) -> bytes:
    if len(_referrers) >= _CACHE:
        _referrers.clear()
    name = referrer_name(referrer)
    known = _referrers[referrer] = b',"referrer_name":' + orjson.dumps(name) if name else b""
    return known


def referrer_name(referrer: str) -> str:
    """The host of a referrer without `www.`, or empty when it has none."""
    try:
        host = urlsplit(referrer).hostname or ""
    except ValueError:
        return ""
    return host.removeprefix("www.")[:NAME_CHARACTERS]


def _from_query(event: Event) -> bytes:
    """Campaign members from the page's own query, where the event has none; the click id's kind."""
    query = event.path.partition("?")[2].partition("#")[0]
    kind = ""
    for name, value in parse_qsl(query):
        if name in _UTM:
            if not getattr(event, name) and "\0" not in value:
                setattr(event, name, value[:NAME_CHARACTERS])
        elif not kind and value and name in _CLICK_IDS:
            kind = name
    return b',"click_id_kind":"%s"' % kind.encode() if kind else b""


_bots: dict[bytes, bool] = {}
_referrers: dict[str, bytes] = {}
