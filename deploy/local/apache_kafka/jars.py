"""Java, and the jars of Apache Kafka.

The jars stand in a folder that is named after the `pom.xml` they were brought for, so a new version
is brought beside the old one. Maven writes into a folder of its own that is renamed when it is
complete: what has the right name is whole, whoever was killed before.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.local.trouble import Trouble

POM = Path(__file__).with_name("pom.xml")
LEAST_JAVA = 17
_MAVEN_SECONDS = 600


def find_java() -> str:
    """The java command: JAVA_HOME's, else PATH's. Trouble when there is none of 17 or newer."""
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home, "bin", "java"))] if home else []
    candidates.append("java")
    found = ""
    for candidate in candidates:
        java = shutil.which(candidate)
        if java is None:
            continue
        version = _java_version(java)
        if version >= LEAST_JAVA:
            return java
        found = f"; {java} is version {version or 'unknown'}"
    raise Trouble(
        f"Apache Kafka needs Java {LEAST_JAVA} or newer, and none was found{found} "
        "(Debian, Ubuntu: apt-get install openjdk-17-jre-headless)"
    )


def _java_version(java: str) -> int:
    try:
        shown = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    return int(match[1]) if match else 0


def folder_of(cache: Path) -> Path:
    """Where the jars for today's pom.xml stand, or will."""
    return cache / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"


def bring(cache: Path) -> Path:
    """The folder with the jars, brought by Maven where they are not there yet."""
    folder = folder_of(cache)
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise Trouble(
            "Maven (mvn) brings the jars of Apache Kafka, and was not found "
            "(Debian, Ubuntu: apt-get install maven)"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        coming = Path(tempfile.mkdtemp(prefix="coming-", dir=cache))
    except OSError as error:
        raise Trouble(
            f"the folder for jars, {cache}, cannot be written: {error.strerror}"
        ) from None
    try:
        _copy_dependencies(maven, coming)
        coming.chmod(0o755)
        try:
            coming.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another start was quicker, and ours is not needed
                raise
    finally:
        shutil.rmtree(coming, ignore_errors=True)
    return folder


def _copy_dependencies(maven: str, target: Path) -> None:
    command = [maven, "--batch-mode", "--quiet", "--file", str(POM)]
    command += ["dependency:copy-dependencies", f"-DoutputDirectory={target}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_MAVEN_SECONDS, cwd=target
        )
    except subprocess.TimeoutExpired:
        raise Trouble(f"Maven did not bring the jars within {_MAVEN_SECONDS} s") from None
    if done.returncode != 0 or not any(target.glob("kafka_*.jar")):
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        raise Trouble(f"Maven could not bring the jars: {lines[0] if lines else done.returncode}")
