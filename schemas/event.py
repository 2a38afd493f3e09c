"""The event contract: what a client may send, and what one line of a Kafka record carries.

`Event` is the one definition. The shim decodes with it, the JSON Schema beside this file is made
from it (`python -m schemas.event` prints it; a test holds the two equal), and the tests make their
events by it. Types, lengths and ranges stand in the annotations, so that msgspec checks them while
it parses, in C; what a type cannot say stands in `settle`:

    bytes --EVENTS.decode--> Event --settle--> Event with created_at as epoch milliseconds,
                                               value rounded to a ten-thousandth,
                                               properties all text, no NUL anywhere

Neither looks at a clock or at the key that came with the event: how far in the past an event may
lie, and who may say in which country it happened, are the shim's business.

A refusal is data: a reason out of a closed set (it becomes a metric's label), the name of the
member it is about, and a sentence for the person who reads the answer. `refusal` makes one from
whatever decoding raised; only members that the contract knows, or the start of an unknown one's
name, are ever quoted back.

What is not there is left out: `null` is no value of any member, and is refused as a wrong type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, get_args
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

NAME_CHARACTERS: Final = 128
URL_CHARACTERS: Final = 2048
PROPERTY_CHARACTERS: Final = 1024
PROPERTIES: Final = 30
UINT32_MAX: Final = 4_294_967_295
VALUE_LIMIT: Final = 10**14  # Decimal(18, 4)
_VALUE_STEP: Final = Decimal("0.0001")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

Name = Annotated[str, Meta(max_length=NAME_CHARACTERS)]
RequiredName = Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS)]
Url = Annotated[str, Meta(max_length=URL_CHARACTERS)]
PropertyText = Annotated[str, Meta(max_length=PROPERTY_CHARACTERS)]
Seconds = Annotated[int, Meta(ge=0, le=UINT32_MAX)]
Percent = Annotated[int, Meta(ge=0, le=100)]
Country = Annotated[
    str,
    Meta(max_length=2, pattern="^([A-Za-z]{2})?$", description="ISO 3166-1 alpha-2, or empty"),
]
Moment = (
    Annotated[datetime, Meta(tz=True, description="RFC 3339 with a zone")]
    | Annotated[int, Meta(ge=0, description="milliseconds since 1970-01-01 UTC")]
)
Amount = Annotated[
    Decimal,
    Meta(
        description="a decimal below 10^14, rounded to four places; a number or text",
        extra_json_schema={"type": ["number", "string"]},
    ),
]
Properties = Annotated[
    dict[RequiredName, PropertyText | bool | int | float],
    Meta(max_length=PROPERTIES, description="numbers and booleans become text"),
]


class Event(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One event as a client sends it."""

    id: Annotated[
        UUID | UnsetType, Meta(description="made by the client, so that a resend is the same event")
    ] = UNSET
    project_id: Annotated[Name, Meta(description="if given, the project of the key")] = ""
    session_id: RequiredName
    name: Annotated[RequiredName, Meta(description="page views are screen_view")]
    created_at: Annotated[Moment | UnsetType, Meta(description="the client's clock")] = UNSET
    path: Url = ""
    previous_path: Url = ""
    duration: Annotated[
        Seconds, Meta(description="whole active seconds on previous_path since its last report")
    ] = 0
    referrer: Url = ""
    utm_source: Name = ""
    utm_medium: Name = ""
    utm_campaign: Name = ""
    utm_term: Name = ""
    utm_content: Name = ""
    country: Country = ""
    city: Name = ""
    device: Name = ""
    browser: Name = ""
    browser_version: Name = ""
    os: Name = ""
    os_version: Name = ""
    max_scroll: Annotated[Percent, Meta(description="deepest part of the page seen, percent")] = 0
    value: Annotated[Amount | UnsetType, Meta(description="what a goal is worth")] = UNSET
    properties: Properties = {}


class LoneEvent(Event, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A body that is one event: the members of the body object may stand beside its own."""

    key: str = ""
    sent_at: Moment | UnsetType = UNSET


class Batch(Struct, kw_only=True, forbid_unknown_fields=True):
    """A body object that carries events, each still to be decoded by itself."""

    events: list[msgspec.Raw]
    key: str = ""
    sent_at: Moment | UnsetType = UNSET


class Record(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of a Kafka record, after enrichment. A member left out has its column's default."""

    id: UUID
    project_id: RequiredName
    session_id: RequiredName
    name: RequiredName
    created_at: int
    received_at: int = 0
    path: Url = ""
    previous_path: Url = ""
    duration: Seconds = 0
    referrer: Url = ""
    referrer_name: str = ""
    referrer_kind: str = ""
    utm_source: Name = ""
    utm_medium: Name = ""
    utm_campaign: Name = ""
    utm_term: Name = ""
    utm_content: Name = ""
    click_id_kind: str = ""
    country: Country = ""
    city: Name = ""
    device: Name = ""
    browser: Name = ""
    browser_version: Name = ""
    os: Name = ""
    os_version: Name = ""
    max_scroll: Percent = 0
    value: Decimal = Decimal(0)
    properties: dict[str, str] = {}
    is_bot: Annotated[int, Meta(ge=0, le=1)] = 0


Reason = Literal[
    "malformed_json",
    "invalid_utf8",
    "too_deep",
    "wrong_type",
    "missing_member",
    "unknown_member",
    "too_long",
    "too_many",
    "empty",
    "out_of_range",
    "bad_id",
    "bad_time",
    "bad_text",
    "nul_character",
    "other_project",
]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)


@dataclass(frozen=True)
class Refusal:
    """Why an event is refused. `member` is empty when it is about the whole event."""

    code: Reason
    member: str
    detail: str

    @property
    def reason(self) -> str:
        """`out_of_range: duration`: the code, and the member it is about."""
        return f"{self.code}: {self.member}" if self.member else self.code


class Refused(Exception):
    """An event that is not taken: a decision about its content."""

    def __init__(self, code: Reason, member: str, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(code, member, detail)


EVENTS: Final = msgspec.json.Decoder(Event)
LONE_EVENTS: Final = msgspec.json.Decoder(LoneEvent)
BATCHES: Final = msgspec.json.Decoder(Batch)
RECORDS: Final = msgspec.json.Decoder(Record)

DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def milliseconds(moment: datetime | int) -> int:
    """Epoch milliseconds, rounded down."""
    return moment if isinstance(moment, int) else (moment - _EPOCH) // _MILLISECOND


def settle(event: Event, may_have_nul: bool = True) -> None:
    """Bring a decoded event into its final form, in place, or raise `Refused`.

    `may_have_nul=False` when the caller has seen that its bytes hold no escaped NUL: JSON allows
    no other, and searching the bytes once is cheaper than looking at each text.
    """
    moment = event.created_at
    if moment.__class__ is datetime:
        event.created_at = milliseconds(moment)
    if event.value is not UNSET:
        event.value = _rounded(event.value)
    if event.country:
        event.country = event.country.upper()
    properties = event.properties
    if properties:
        for value in properties.values():
            if value.__class__ is not str:
                event.properties = {name: property_text(v) for name, v in properties.items()}
                break
    if may_have_nul:
        _refuse_nul(event)


def property_text(value: str | bool | int | float) -> str:
    """A property's value as the text that is stored: as JSON writes it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _rounded(value: Decimal) -> Decimal:
    # Compared, never computed with, until it is known to be small: 1e999999999 is a Decimal too.
    if value.is_finite() and -VALUE_LIMIT < value < VALUE_LIMIT:
        rounded = value.quantize(_VALUE_STEP)
        if -VALUE_LIMIT < rounded < VALUE_LIMIT:
            return rounded
    raise Refused("out_of_range", "value", "value must be a decimal between -10^14 and 10^14")


def _refuse_nul(event: Event) -> None:
    for member in event.__struct_fields__:
        value = getattr(event, member)
        if isinstance(value, str) and "\0" in value:
            raise Refused("nul_character", member, f"{member} must not contain a NUL character")
    for name, text in event.properties.items():
        if "\0" in name or "\0" in str(text):
            raise Refused(
                "nul_character", "properties", "properties must not contain a NUL character"
            )


_AT: Final = re.compile(r" - at `(?:key` in `)?\$(?:\.([a-z_]+))?")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `([a-z_]+)`")
_BOUND: Final = re.compile(r"Expected `(\w+)` (of length )?(>=|<=) (-?\d+)")
_TYPES: Final = re.compile(r"Expected `([\w| ]+)`, got `(\w+)`")
_WORDS: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number with a fraction",
    "bool": "true or false",
    "datetime": "an RFC 3339 time",
    "decimal": "a decimal",
    "uuid": "a UUID",
    "object": "an object",
    "array": "an array",
    "null": "null",
}


def refusal(error: BaseException) -> Refusal:
    """What to tell the client about an error that decoding (or `settle`) raised."""
    if isinstance(error, Refused):
        return error.refusal
    if isinstance(error, UnicodeDecodeError):
        return Refusal("invalid_utf8", "", "the text is not valid UTF-8")
    if isinstance(error, RecursionError):
        return Refusal("too_deep", "", "the JSON is nested too deeply")
    message = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return Refusal("malformed_json", "", message.removeprefix("JSON is malformed: "))
    if unknown := _UNKNOWN.match(message):
        name = unknown[1][:NAME_CHARACTERS]
        return Refusal("unknown_member", name, f"{name} is not a member of an event")
    if missing := _MISSING.match(message):
        return Refusal("missing_member", missing[1], f"{missing[1]} is required")
    at = _AT.search(message)
    return _about(at[1] if at and at[1] else "", message)


def _about(member: str, message: str) -> Refusal:
    subject = member or "an event"
    if bound := _BOUND.match(message):
        kind, length, relation, limit = bound.groups()
        if not length:
            words = "at least" if relation == ">=" else "at most"
            return Refusal("out_of_range", member, f"{subject} must be {words} {limit}")
        if relation == ">=":
            return Refusal("empty", member, f"{subject} must not be empty")
        if kind == "object":
            return Refusal("too_many", member, f"{subject} must have at most {limit} members")
        return Refusal("too_long", member, f"{subject} must have at most {limit} characters")
    if types := _TYPES.match(message):
        wanted = " or ".join(_WORDS.get(word.strip(), word) for word in types[1].split("|"))
        got = _WORDS.get(types[2], types[2])
        return Refusal("wrong_type", member, f"{subject} must be {wanted}, not {got}")
    if "UUID" in message:
        return Refusal("bad_id", member, f"{subject} must be a UUID")
    if "datetime" in message:
        return Refusal("bad_time", member, f"{subject} must be an RFC 3339 time with a zone")
    if "out of range" in message or "decimal" in message:
        return Refusal("out_of_range", member, f"{subject} is out of range")
    if "regex" in message:
        return Refusal("bad_text", member, f"{subject} must be two letters")
    return Refusal("wrong_type", member, f"{subject} has a wrong type")


def json_schema() -> dict[str, Any]:
    """The contract as JSON Schema (2020-12): one event, an array of them, or a body object."""
    (event, batch), parts = msgspec.json.schema_components(
        [Event, LoneEvent], ref_template="#/$defs/{name}"
    )
    moment = parts["LoneEvent"]["properties"]["sent_at"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock events, as POST /v1/events takes them",
        "anyOf": [
            batch,
            {"type": "array", "items": event, "minItems": 1},
            {
                "type": "object",
                "properties": {
                    "events": {"type": "array", "items": event, "minItems": 1},
                    "key": {"type": "string"},
                    "sent_at": moment,
                },
                "required": ["events"],
                "additionalProperties": False,
            },
        ],
        "$defs": parts,
    }


def schema_text() -> str:
    """What stands in event.schema.json."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
