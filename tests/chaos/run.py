"""One run: the whole pipeline under load while the nemesis works, then the truth.

    shim, plain and transactional producers -> Apache Kafka -> 1 to 4 consumers -> the real engine
                                                  |  a link each  |     |  a link each  |

Consumers reach both servers through links of their own; everybody else reaches them directly. When
the time is over everything is healed, the rest lands, and every table is held against what the
topic holds, which is held against what the producers were told.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from deploy.local.child import Child
from deploy.local.waiting import free_port, wait_until
from schemas.settings import BY_NAME
from tests.chaos.cuts import POINTS, Cuts
from tests.chaos.load import MOST_BYTES, Load, Plain, Transactions
from tests.chaos.nemesis import Nemesis, Slot
from tests.chaos.plan import OFF, SLOTS, Fault, plan
from tests.chaos.poison import BAD, Poison
from tests.chaos.proxy import HttpLink, Link, ProxyThread
from tests.chaos.report import Report
from tests.chaos.verdict import (
    ledger_problems,
    letter_problems,
    lost_and_doubled,
    read_letters,
    thrown_problems,
)
from tests.fixtures.children import Children, await_start
from tests.fixtures.clickhouse import OwnClickHouse
from tests.fixtures.events import Made, made_events
from tests.fixtures.kafka import OwnKafka
from tests.fixtures.loading import Loader
from tests.fixtures.odd import Odd, odd_events
from tests.fixtures.pipeline import PROJECTS, Consumer, Pipeline, line_problems
from tests.fixtures.records import line
from tests.fixtures.tables import Topic, against_truth, rows_of, stamp_problems
from tests.fixtures.truth import Truth
from tests.mutants.switching import environment_without

PARTITIONS = 8
EVENTS_PER_SECOND = 250
_ODD_PER_SECOND = 5  # besides
_LETTER_PARTITIONS = 2
_CALM_EVENTS = 1000
_AT_FIRST = 3  # consumers
_SETTLE_SECONDS = 180.0
_TURNS = ("2025-12-31", "2026-01-31")  # in the months of the odd events
_SETTINGS: dict[str, Any] = {
    "BATCH_ROWS": "200",
    "BATCH_AGE_SECONDS": "0.3",
    "INSERTS_PER_SECOND": "20",
    "INSERT_DEADLINE_SECONDS": "8",
    "INSERT_MAX_SECONDS": "5",
    "COMMIT_TIMEOUT_SECONDS": "5",
    "STOP_SECONDS": "15",
    "LOG_LEVEL": "debug",
}
_SESSION_SECONDS = 3
# The broker's: a KIP-848 group has its session's length from there.
_BROKER = (
    f"group.consumer.session.timeout.ms={_SESSION_SECONDS * 1000}",
    "group.consumer.min.session.timeout.ms=1000",
    "group.consumer.heartbeat.interval.ms=1000",
    "group.consumer.min.heartbeat.interval.ms=500",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000",
)
_TELLING = (
    "batch replayed", "insert failed", "insert unsent", "partitions assigned",
    "partitions revoked", "partitions lost", "joining the group again", "ending at once",
    "past the deadline: planning again", "waiting for older inserts to end", "partition stopped",
    "ClickHouse refuses a batch for its content", "event set aside", "a batch is in doubt",
    "mending", "mended", "records are lost", "will try again",
)  # fmt: skip


def protocols() -> list[str]:
    """The group protocols that the consumer's settings allow."""
    setting = BY_NAME.get("KAFKA_GROUP_PROTOCOL")
    return list(setting.choices) if setting is not None else ["cooperative"]


def _group_settings(protocol: str) -> dict[str, object]:
    settings: dict[str, object] = {"SESSION_TIMEOUT_SECONDS": _SESSION_SECONDS}
    if "KAFKA_GROUP_PROTOCOL" in BY_NAME:
        settings["KAFKA_GROUP_PROTOCOL"] = protocol
    return settings


class Run:
    """`without`: the plan's switches that are off. `off`: a rule of the protocol that the consumers
    are without, by its mutant's name; the run should then end badly. `say` gets lines for a
    person."""

    def __init__(
        self,
        seed: int,
        seconds: float,
        folder: Path,
        *,
        protocol: str = "cooperative",
        without: Collection[str] = OFF,
        off: str = "",
        say: Callable[[str], None] = print,
    ) -> None:
        self.report = Report(seed, seconds, protocol, str(folder))
        self._seed, self._seconds, self._folder = seed, seconds, folder
        self._off = off
        self._say = say
        self._said_at = 0.0
        self.faults: list[Fault] = plan(seed, seconds, without)
        (folder / "plan.txt").write_text("\n".join(map(str, self.faults)) + "\n", encoding="utf-8")

    def __call__(self) -> Report:
        children = Children(self._folder / "logs")
        proxies = ProxyThread()
        try:
            self._run(children, proxies)
        finally:
            children.close()
            proxies.close()
            self.report.write(self._folder / "report.json")
        return self.report

    def _run(self, children: Children, proxies: ProxyThread) -> None:
        listens = {slot: free_port() for slot in SLOTS}
        to_kafka = {slot: Link(f"kafka {slot}", proxies, listens[slot]) for slot in SLOTS}
        proxied = {listens[slot]: to_kafka[slot].port for slot in SLOTS}
        kafka = OwnKafka(self._folder / "kafka", children, proxied, _BROKER)
        clickhouse = OwnClickHouse(self._folder / "clickhouse", children)
        try:
            clickhouse.create_database()
            clickhouse.apply_schema()
            pipeline = Pipeline(kafka, clickhouse, children, self._folder)
            size = {"max_message_bytes": str(MOST_BYTES)}
            pipeline.create_topic(PARTITIONS, **size)
            kafka.create_topic(_LETTER_PARTITIONS, f"{pipeline.topic}.dead", **size)
            cuts = Cuts(self._folder / "cuts")
            slots = []
            for slot in SLOTS:
                link = HttpLink(f"clickhouse {slot}", proxies, clickhouse.port)
                links: dict[str, Link] = {"kafka": to_kafka[slot], "clickhouse": link}
                slots.append(self._slot(slot, pipeline, children, links, cuts))
            shim = pipeline.start_shim()
            servers = {"front": clickhouse.child, "kafka": kafka.child, "shim": shim}
            self._through(pipeline, slots, servers, cuts)
        finally:
            clickhouse.close()

    def _slot(
        self,
        number: int,
        pipeline: Pipeline,
        children: Children,
        links: dict[str, Link],
        cuts: Cuts,
    ) -> Slot:
        admin_port = free_port()
        clickhouse_url = f"http://127.0.0.1:{links['clickhouse'].port}"
        env = pipeline.environment(
            **_SETTINGS,
            **_group_settings(self.report.protocol),
            ADMIN_PORT=admin_port,
            KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{links['kafka'].port}",
            CLICKHOUSE_URL=f"{clickhouse_url}/{pipeline.clickhouse.database}",
        )
        env |= {"CHAOS_CUTS": str(cuts.folder), "CHAOS_SLOT": str(number)}
        if self._off:
            env |= environment_without(self._off)
        command = [sys.executable, "-m", "tests.chaos.consumer_with_cuts", "run"]
        child = children.make(f"consumer-{number}", command, env)
        consumer = Consumer(child, admin_port, pipeline.partitions)
        pipeline.consumers.append(consumer)
        return Slot(number, consumer, links, wanted=number <= _AT_FIRST)

    def _through(
        self, pipeline: Pipeline, slots: list[Slot], servers: dict[str, Child], cuts: Cuts
    ) -> None:
        seed, seconds = self._seed, self._seconds
        count = int(EVENTS_PER_SECOND * seconds) + _CALM_EVENTS
        beside = sum(fault.details["records"] for fault in self.faults if fault.kind == "poison")
        events = made_events(seed, count + 12 * beside, PROJECTS, turns=_TURNS)
        calm, rest, good = events[:_CALM_EVENTS], events[_CALM_EVENTS:count], events[count:]
        count -= _CALM_EVENTS
        shares = [rest[: count * 6 // 10], rest[count * 6 // 10 : count * 8 // 10]]
        shares.append(rest[count * 8 // 10 :])

        first = slots[:_AT_FIRST]
        for slot in first:
            slot.child.start()
        for slot in first:
            consumer = slot.consumer
            await_start(slot.child, partial(consumer.shares, _AT_FIRST), 60)
        # With a first commit on every partition; until then their owners would mostly wait.
        Loader(pipeline.shim_port, calm, seed=seed, body_events=20).run()
        pipeline.await_landed()

        at_kafka = (pipeline.kafka.bootstrap_servers, pipeline.topic, PARTITIONS)
        loader = Loader(
            pipeline.shim_port, shares[0], seed=seed, body_events=20, connections=8,
            seconds=seconds, abandons=0.03,
        )  # fmt: skip
        made = [(each.id, line(each)) for each in shares[1]]
        plain = Plain(*at_kafka, made, seed=seed, seconds=seconds)
        odd = odd_events(seed, int(_ODD_PER_SECOND * seconds))
        written = [(each.id, each.line) for each in odd]
        oddly = Plain(*at_kafka, written, seed=seed + 1, seconds=seconds)
        transactions = Transactions(*at_kafka, shares[2], seed=seed, seconds=seconds)
        load = Load(loader, plain, oddly, transactions)
        load.start()
        poison = Poison(*at_kafka, good)
        nemesis = Nemesis(pipeline, slots, servers, cuts, poison)
        try:
            nemesis.run(self.faults, seconds, lambda at: self._progress(at, nemesis))
            self._settle(pipeline, nemesis, lambda: load.over and poison.over and nemesis.undone)
        finally:
            self._note(pipeline, slots, nemesis, cuts)
            self.report.sources = {
                "shim: acknowledged": len(loader.loaded.acknowledged),
                "shim: given up by clients": len(loader.loaded.abandoned),
                "plain: acknowledged": len(plain.acknowledged),
                "oddly written: acknowledged": len(oddly.acknowledged),
                "transactions: committed": len(transactions.committed),
                "transactions: aborted": len(transactions.aborted),
                "transactions: in doubt": len(transactions.unknown),
                **{f"transactions: {name}": n for name, n in transactions.happened.items()},
                **{f"answer {name}": n for name, n in loader.loaded.answers.items()},
            }
        problems = self.report.problems
        if problems:  # what has not landed is no loss, and would hide why it has not
            problems += [f"partition stopped: {why}" for why in pipeline.halted()[:5]]
            problems += self._trying(pipeline)
            return
        topic = pipeline.read_topic(BAD, {each.line: each.members for each in odd})
        problems += nemesis.trouble
        problems += [f"partition stopped: {why}" for why in pipeline.halted()[:5]]
        problems += [f"shim refused {i}: {why}" for i, why in loader.loaded.refused.items()][:5]
        told = {made.id for made in calm} | loader.loaded.acknowledged
        told |= plain.acknowledged | oddly.acknowledged
        told |= transactions.committed | poison.acknowledged
        self._against_truth(pipeline, topic, events, odd, told, transactions.aborted)

    def _settle(self, pipeline: Pipeline, nemesis: Nemesis, sent: Callable[[], bool]) -> None:
        began = time.monotonic()

        def over(condition: Callable[[], bool]) -> Callable[[], bool]:
            def look() -> bool:
                nemesis.round()
                return condition()

            return look

        try:
            wait_until(over(sent), _SETTLE_SECONDS, "everything was sent", 0.1)
            wait_until(over(pipeline.has_landed), _SETTLE_SECONDS, "everything has landed", 0.2)
        except TimeoutError as late:
            self.report.problems.append(f"{late}: lags {pipeline.lags()}")
        self.report.settled_seconds = time.monotonic() - began

    def _trying(self, pipeline: Pipeline) -> list[str]:
        """What consumers say they try again, the last of each."""
        last = {
            str(fact.get("partition")): f"partition {fact.get('partition')}: {fact.get('why')}"
            for consumer in pipeline.consumers
            for fact in consumer.facts("will try again")
        }
        return [text[:300] for text in last.values()]

    def _progress(self, at: float, nemesis: Nemesis) -> None:
        if at - self._said_at < 10:
            return
        self._said_at = at
        self._say(
            f"chaos {at:5.0f} of {self._seconds:.0f} s: {sum(nemesis.happened.values())} faults, "
            f"{len(nemesis.struck)} of {len(POINTS)} cut points struck"
        )

    # --- what came of it -------------------------------------------------------------------------

    def _note(self, pipeline: Pipeline, slots: list[Slot], nemesis: Nemesis, cuts: Cuts) -> None:
        report = self.report
        report.faults = dict(nemesis.happened)
        report.cuts_struck = dict(nemesis.struck)
        report.cuts_passed = dict.fromkeys(POINTS, 0) | dict(cuts.passed())
        report.exits = dict(nemesis.exits)
        network: Counter[str] = Counter()
        for slot in slots:
            for link in slot.links.values():
                network += link.happened
        report.network = dict(network)
        said = Counter(str(fact["message"]) for c in pipeline.consumers for fact in c.facts())
        report.said = {text: said[text] for text in _TELLING if said[text]}
        report.replays, report.reconciles = said["batch replayed"], said["mended"]
        report.batches = said["batch inserted"] + said["batch replayed"]

    def _against_truth(
        self,
        pipeline: Pipeline,
        topic: Topic,
        events: list[Made],
        odd: list[Odd],
        told: set[str],
        aborted: set[str],
    ) -> None:
        report, problems = self.report, self.report.problems
        on_topic = Counter(line["id"] for line in topic.lines())
        report.events = sum(on_topic.values())
        if missing := told - on_topic.keys():
            problems.append(f"topic: {len(missing)} acknowledged events are not there")
        if there := aborted & on_topic.keys():
            problems.append(f"topic: {len(there)} aborted events are there, as {min(there)}")
        client = pipeline.clickhouse.client()
        rows = Counter(dict(rows_of(client, "SELECT id, count() FROM events GROUP BY id")))
        report.lost, report.doubled = lost_and_doubled(on_topic, rows)
        problems += line_problems(events, topic, {each.id for each in odd})
        problems += stamp_problems(client, topic)
        problems += against_truth(
            client,
            Truth(topic.lines()),
            once=Truth({each["id"]: each for each in topic.lines()}.values()),
        )
        servers, name = pipeline.kafka.bootstrap_servers, f"{pipeline.topic}.dead"
        letters = read_letters(servers, name, _LETTER_PARTITIONS)
        problems += ledger_problems(client, topic, letters)
        report.bad_lines, report.dead_letters = len(topic.bad), len(letters)
        problems += letter_problems(topic, letters)
        views = [fault for fault in self.faults if fault.kind == "throwing view"]
        problems += thrown_problems(topic, letters, {fault.details["mark"] for fault in views})
