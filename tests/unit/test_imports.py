"""Imports run one way, and the pure core knows nothing of the world. Read from the source text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PURE = (
    "batch", "ledger", "recovery", "commands", "partition", "assignment", "retry", "mending",
    "share", "ndjson", "flight",
)  # fmt: skip
ADAPTERS = ("kafka", "kafka_client", "clickhouse", "content", "coverage", "by_number",
            "erased", "reading", "placing", "thrown", "errors", "dead_letters")  # fmt: skip
# What runs a consumer, and what a person runs beside it. A tool never runs a consumer, nor the
# other way round: they share adapters and the core's types, and nothing that acts.
SHELL = {"runner", "topic_watch", "facts", "__main__", "admin", "metrics"}
PREFLIGHT = {"preflight", "preflight_clickhouse", "preflight_kafka", "findings"}
TOOLS = {
    "arguments", "letter_index", "letter_topic", "letter_words", "letters", "settling",
    "audit", "audit_causes", "audit_gone", "audit_letters", "audit_log", "audit_report",
    "audit_run", "audit_tables", "audit_tiles",
    "rewind", "rewind_log", "rewind_plan", "rewind_record", "rewind_words", "rewinding",
}  # fmt: skip
BETWEEN = {"__init__", "ports", "config"}

# What each pure module may know of the consumer: always something further down.
KNOWS = {
    "ndjson": set(),
    "batch": {"ndjson"},
    "retry": set(),
    "ledger": {"batch"},
    "recovery": {"batch", "ledger"},
    "commands": {"batch", "recovery"},
    "mending": {"recovery"},
    "share": set(),
    "flight": {"batch", "ledger", "retry"},
    "partition": {
        "batch",
        "ledger",
        "recovery",
        "commands",
        "retry",
        "mending",
        "share",
        "flight",
    },
    "assignment": {"batch", "commands", "flight", "partition"},
}
ADAPTERS_KNOW = {
    "ports", "batch", "ledger", "recovery", "commands", "config", "content", "coverage",
    "by_number", "erased", "reading", "placing", "thrown", "errors",
    "kafka_client",
}  # fmt: skip
# The types that the ports speak with: what an adapter may take of the modules that decide.
SPOKEN = {
    "commands": {
        "Answer", "CommitAnswered", "CoverageRead", "InsertAnswered", "Isolated", "LettersWritten",
        "Outcome", "ReadFailed", "Restored", "Sifted", "StampsRead", "TopicRead",
    },
    "recovery": {"Commit", "Coverage", "Covered", "Judgement", "judge"},
}  # fmt: skip
# All that the core needs of the standard library and of others. A word for each newcomer: no clock,
# no thread, no randomness, no I/O, no logging, no metrics.
PURE_LIBRARIES = {
    "__future__", "collections", "collections.abc", "dataclasses", "enum", "itertools", "typing",
    "re", "zlib", "xxhash", "numpy",
}  # fmt: skip
UNCLEAN_BUILTINS = {"open", "print", "input", "exec", "eval", "__import__"}


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import anywhere in a file; name is empty for `import module`."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*here, *(node.module or "").split(".")]).rstrip(".")
            found += [(module, alias.name) for alias in node.names]
    return found


def of_package(path: Path, package: str) -> set[str]:
    """Modules of a package that a file imports, by their name in it."""
    found = set()
    for module, name in imports(path):
        first, _, rest = module.partition(".")
        if first == package:
            found.add(rest.split(".")[0] if rest else name)
    return found - {""}


def consumer(name: str) -> Path:
    return ROOT / "consumer" / f"{name}.py"


@pytest.mark.parametrize("name", PURE)
def test_the_pure_core_imports_one_way(name: str) -> None:
    assert of_package(consumer(name), "consumer") <= KNOWS[name]


@pytest.mark.parametrize("name", PURE)
def test_the_pure_core_has_no_io_clock_threads_logging_or_metrics(name: str) -> None:
    outside = {module for module, _ in imports(consumer(name)) if module != "consumer"}
    assert {m for m in outside if not m.startswith("consumer.")} <= PURE_LIBRARIES
    tree = ast.parse(consumer(name).read_text(encoding="utf-8"))
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not called & UNCLEAN_BUILTINS


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_know_the_ports_and_what_these_speak_with(name: str) -> None:
    assert of_package(consumer(name), "consumer") <= ADAPTERS_KNOW
    for module, spoken in SPOKEN.items():
        taken = {what for m, what in imports(consumer(name)) if m == f"consumer.{module}"}
        assert taken <= spoken, f"{name} takes more of {module} than the ports speak with"


def test_ports_know_no_adapter() -> None:
    known = {"batch", "ledger", "commands", "recovery"}
    assert of_package(consumer("ports"), "consumer") <= known


def test_every_module_of_the_consumer_has_its_place() -> None:
    places = [set(PURE), set(ADAPTERS), SHELL, PREFLIGHT, TOOLS, BETWEEN]
    here = {path.stem for path in modules("consumer")}
    assert here <= set().union(*places)
    assert sum(map(len, places)) == len(set().union(*places))


def test_who_runs_a_consumer_and_who_looks_after_it_do_not_know_each_other() -> None:
    for path in modules("consumer"):
        known = of_package(path, "consumer")
        if path.stem in SHELL - {"__main__"}:
            assert not known & (TOOLS | PREFLIGHT), path
        if path.stem in TOOLS | PREFLIGHT:
            assert not known & (SHELL | {"partition", "assignment"}), path


def test_the_runner_knows_ports_and_no_adapter() -> None:
    assert not of_package(consumer("runner"), "consumer") & {*ADAPTERS, "__main__", "preflight"}
    assert "assignment" in of_package(consumer("runner"), "consumer")


def test_main_starts_the_runner() -> None:
    assert "runner" in of_package(consumer("__main__"), "consumer")


@pytest.mark.parametrize("package", ["consumer", "producer_shim", "schemas", "deploy"])
def test_nothing_imports_a_main(package: str) -> None:
    for path in modules(package):
        for module, name in imports(path):
            assert "__main__" not in (*module.split("."), name), path


def test_nothing_in_the_consumer_below_the_shell_imports_the_shell() -> None:
    for name in (*PURE, *ADAPTERS, *sorted(BETWEEN)):
        assert not of_package(consumer(name), "consumer") & (SHELL | PREFLIGHT | TOOLS), name


def test_there_is_no_cycle_in_the_consumer() -> None:
    graph = {p.stem: of_package(p, "consumer") - {p.stem} for p in modules("consumer")}
    while graph:
        ready = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert ready, f"a cycle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in ready}


@pytest.mark.parametrize(
    ("package", "stranger"),
    [
        ("producer_shim", "consumer"),
        ("consumer", "producer_shim"),
        ("schemas", "consumer"),
        ("schemas", "producer_shim"),
        ("consumer", "deploy"),
        ("producer_shim", "deploy"),
        ("schemas", "deploy"),
        ("consumer", "tests"),
        ("producer_shim", "tests"),
        ("schemas", "tests"),
    ],
)
def test_packages_that_never_import_each_other(package: str, stranger: str) -> None:
    for path in modules(package):
        roots = {module.split(".")[0] for module, _ in imports(path)}
        assert stranger not in roots, path
