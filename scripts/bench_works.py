"""The works of the benchmark. Each starts its servers and returns the cases to measure, with their goals."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import bench_validators
from bench_case import CPU, MIB, RATE, RSS, BenchError, Case, Goal, Load, Work
from bench_servers import aiorelay, clamd, crowd, flask, free_port, nginx, proxying, serving, storing
from bench_stage import BOUNDARY, Stage, run

__all__ = ["WORKS"]

_CROWD = 200
_REQUESTS, _P99, _SECONDS = "requests/s", "p99 ms", "seconds"


def _relay(stage: Stage) -> Work:
    mib = stage.size
    load = stage.upload(stage.sample(mib))
    alone, proxied = stage.rest2_and_nginx(load, mib)
    alone.hold(CPU, 2.5, "s/GiB")
    alone.compare(RATE, 0.7, dav := _dav(stage))
    ours = stage.relay("relay", load, mib)
    ours.compare(RATE, 1.0, proxied)
    ours.compare(CPU, 1.12, proxied, at_most=True)
    ours.compare(RATE, 4.0, pair := _flask_pair(stage, load))
    two = stage.relay("relay, two processes", load, mib, "--processes=2")
    return Work(f"{mib} MiB, one client", RATE, [dav, alone, ours, two, stage.bare(load, mib), proxied, pair], proxied)


def _dav(stage: Stage) -> Case:
    """Return a case without form and digest: the minimum cost of storing a large file."""
    port, store = free_port(), stage.folder("dav")
    put = stage.curl("-T", str(stage.directory / "sample"))
    server = stage.stack.enter_context(nginx(stage.directory / "nginx", stage.certificate, storing(port, store)))
    url = f"https://127.0.0.1:{port}/sample"
    return Case("nginx WebDAV, raw PUT", lambda url: run([*put, url]), url, (server,), (server,), stage.size, store)


def _flask_pair(stage: Stage, load: Load) -> Case:
    front, back = (f"https://127.0.0.1:{free_port()}" for _ in range(2))
    store = stage.folder("flask")
    behind = stage.stack.enter_context(flask(back, stage.certificate, "store", str(store)))
    before = stage.stack.enter_context(flask(front, stage.certificate, "relay", f"{back}/upload", str(stage.ca)))
    return Case("Flask pair", load, front, (before, behind), (before,), stage.size, store)


def _resumable(stage: Stage) -> Work:
    """An upload that is never interrupted, with and without resumption."""
    sample, mib = stage.sample(stage.size), stage.size
    fields = ["-HUpload-Complete: ?1", "-HUpload-Draft-Interop-Version: 8"]

    def put(*options: str) -> Load:
        return lambda url: run(stage.curl("-T", str(sample), *options, f"{url}/upload/sample"))

    plain = stage.relay("plain", put(), mib)
    resumable = replace(plain, name="resumable", load=put(*fields))
    resumable.compare(RATE, 0.8, plain)
    resumable.compare(CPU, 1.4, plain, at_most=True)
    return Work(f"{mib} MiB, raw, that could be resumed", RATE, [plain, resumable], plain)


def _parallel(stage: Stage) -> Work:
    each = max(1, stage.size * 100 // 1024)
    load, mib = stage.upload(stage.sample(each), times=8), 8 * each
    _, proxied = stage.rest2_and_nginx(load, mib)
    one = stage.relay("relay", load, mib)
    two = stage.relay("relay, two processes", load, mib, "--processes=2")
    three = stage.relay("relay, three processes", load, mib, "--processes=3")
    one.compare(RATE, 0.8, proxied)
    two.compare(RATE, 0.95, proxied)
    return Work(f"8 x {each} MiB at once", RATE, [one, two, three, stage.bare(load, mib), proxied], proxied)


def _small(stage: Stage) -> Work:
    cases = []
    for kib, least in ((1, 0.45), (64, 0.55)):
        memory = stage.memory()
        inner = replace(stage, directory=stage.folder(f"{kib}"))
        load = _wrk(stage.seconds, kib * 1024)
        (memory / "alone").mkdir()
        (memory / "relay").mkdir()
        (memory / "two").mkdir()
        (memory / "bare").mkdir()
        _, proxied = inner.rest2_and_nginx(load, 0, memory / "alone")
        ours = inner.relay("relay", load, 0, store=memory / "relay")
        ours.compare(_REQUESTS, least, proxied)
        ours.compare(_P99, 3, proxied, at_most=True)
        two = inner.relay("relay, two processes", load, 0, "--processes=2", store=memory / "two")
        for case in (ours, two, proxied, inner.bare(load, 0, memory / "bare")):
            case.name += f", {kib} KiB"
            cases.append(case)
    return Work("Small files, 16 keep-alive connections, tmpfs", _REQUESTS, cases)


def _crowd(stage: Stage) -> Work:
    load = _wrk(stage.seconds, 64 * 1024)
    alone = stage.relay("alone", load, 0, store=stage.memory())

    def beside(url: str) -> Mapping[str, float] | None:
        with crowd(url, stage.ca, _CROWD):
            return load(url)

    among = replace(alone, name=f"among {_CROWD} idle and dripping connections", load=beside)
    among.compare(_P99, 2, alone, at_most=True)
    return Work(
        "64 KiB files, 16 keep-alive connections, tmpfs, and who only holds connections", _P99, [alone, among], alone
    )


def _wrk(seconds: int, size: int) -> Load:
    script = Path(__file__).with_name("bench.lua")

    def load(url: str) -> dict[str, float]:
        command = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--timeout=30s", f"--script={script}", f"{url}/upload"]
        done = subprocess.run([*command, "--", str(size)], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise BenchError(f"wrk failed with {done.returncode}:\n{done.stdout}")
        requests, failed, p99, duration = map(int, done.stdout.splitlines()[-1].split())
        if failed or not requests:
            raise BenchError(f"{failed} small uploads to {url} failed:\n{done.stdout}")
        return {_REQUESTS: requests / duration * 1e6, _P99: p99 / 1000, "requests": requests}

    return load


def _sources(stage: Stage) -> Work:
    mib, port = stage.size, free_port()
    files = stage.folder("files")
    sample = stage.sample(mib).rename(files / "sample")
    remote, copy = f"http://127.0.0.1:{port}/sample", stage.directory / "copy"

    def name_it(where: str) -> Load:
        body = json.dumps({"somefile": where})
        return lambda url: run(stage.curl("-HContent-Type: application/json", "-d", body, f"{url}/upload2"))

    def carry_it(url: str) -> None:
        run(["curl", "-sSf", f"-o{copy}", remote])
        stage.upload(copy)(url)
        copy.unlink()

    ours = stage.relay("from a URL", name_it(remote), mib, "--allow-net=127.0.0.0/8", f"--local-root={files}")
    source = stage.stack.enter_context(nginx(stage.directory / "nginx", stage.certificate, serving(port, files)))
    local = replace(ours, name="from a local path", load=name_it(str(sample)))
    ours.serving += (source,)
    by_hand = replace(ours, name="curl down, curl up", load=carry_it)
    ours.compare(RATE, 1.3, by_hand)
    local.compare(RATE, 1.3, by_hand)
    return Work(f"{mib} MiB from a source", RATE, [ours, local, by_hand], by_hand)


def _shapes(stage: Stage) -> Work:
    """The relay keeps the boundary of the client, so the data can contain near-matches of it."""
    near = f"\r\n--{BOUNDARY[:-1]}".encode()
    blocks = {"CRs only": b"\r" * MIB, "near-boundary data": (near * (MIB // len(near) + 1))[:MIB]}
    noise = stage.relay("random data", stage.post(stage.form(stage.size)), stage.size)
    shapes = []
    for name, block in blocks.items():
        case = replace(noise, name=name, load=stage.post(stage.form(stage.size, f"form {name}", block)))
        case.compare(RATE, 0.8, noise)
        shapes.append(case)
    return Work(f"{stage.size} MiB of hostile data", RATE, [noise, *shapes], noise)


def _sizes(stage: Stage) -> Work:
    """Each case has its own process, so that earlier uploads do not affect its memory."""
    small, large, each = max(1, stage.size // 4), stage.size * 4, max(1, stage.size * 100 // 1024)
    short, tall, eighth = (stage.sample(mib).rename(stage.directory / f"{mib}.bin") for mib in (small, large, each))
    one = stage.relay(f"{small} MiB", stage.upload(short), small)
    big = stage.relay(f"{large} MiB", stage.upload(tall), large)
    eight = stage.relay(f"8 x {each} MiB at once", stage.upload(eighth, times=8), 8 * each)
    big.compare(CPU, 1.1, one, at_most=True)
    for case in (one, big):
        case.hold(RSS, 64, "MiB")
    further = Goal(RSS, lambda: [(eight[RSS] - big[RSS]) / 7], 1.5, "MiB for each further upload", at_most=True)
    eight.goals.append(further)
    return Work("Cost and memory by size", CPU, [one, big, eight], one)


def _behind(stage: Stage) -> Work:
    """The relay behind nginx on the same machine."""
    load, mib = stage.upload(stage.sample(stage.size)), stage.size
    ways = {
        "TLS": [],
        "the loopback": ["--no-tls"],
        "a Unix socket": ["--no-tls", f"--listen-unix={stage.directory}/rest1.sock"],
    }
    cases = []
    for name, flags in ways.items():
        case, port = stage.relay(f"nginx and the relay, over {name}", load, mib, *flags), free_port()
        front = nginx(stage.folder(f"behind {name}") / "nginx", stage.certificate, proxying(port, case.url))
        case.serving += (stage.stack.enter_context(front),)
        case.url = f"https://127.0.0.1:{port}"
        cases.append(case)
    return Work(f"{mib} MiB through a proxy on the same machine", RATE, cases, cases[0])


def _pythons(stage: Stage) -> Work:
    """The same relay on several versions of Python."""
    load, mib = stage.upload(stage.sample(stage.size)), stage.size
    cases = [stage.relay(name, load, mib, python=python) for name, python in stage.pythons.items()]
    return Work(f"{mib} MiB on several Pythons", RATE, cases, cases[0])


def _small_on_pythons(stage: Stage) -> Work:
    load = _wrk(stage.seconds, 1024)
    ways = stage.pythons.items()
    cases = [stage.relay(name, load, 0, store=stage.memory(), python=python) for name, python in ways]
    return Work("1 KiB files on several Pythons", _REQUESTS, cases, cases[0])


def _start(stage: Stage) -> Work:
    store = stage.folder("store")

    def to_ready(_: str) -> dict[str, float]:
        started = time.perf_counter()
        with aiorelay(stage.state, store):
            return {_SECONDS: time.perf_counter() - started}

    def to_import(_: str) -> dict[str, float]:
        started = time.perf_counter()
        run([sys.executable, "-c", "import aiorelay"])
        return {_SECONDS: time.perf_counter() - started}

    ready, imported = Case("python -m aiorelay, to ready", to_ready), Case("python -c 'import aiorelay'", to_import)
    ready.hold(_SECONDS, 0.6, "s")
    imported.hold(_SECONDS, 0.3, "s")
    return Work("Start", _SECONDS, [ready, imported], rounds=5)


def _checks(stage: Stage) -> Work:
    mib, form = stage.size, stage.form(stage.size)
    plain = stage.relay("no check", stage.post(form), mib)
    typed = stage.relay("type", stage.post(form), mib, "--accept=application/octet-stream")
    with form.open("rb") as file:
        digest = base64.b64encode(hashlib.file_digest(file, "sha256").digest()).decode()
    told = stage.post(form, f"Content-Digest: sha-256=:{digest}:")
    summed = stage.relay("sha256", told, mib)
    typed.compare(RATE, 0.98, plain)
    summed.compare(RATE, 0.9, plain)
    several = [_validated(stage, form, number) for number in (1, 2, 4)]
    others = [*several, _kept(stage, form), *_scanned(stage, form), _matched(stage, form)]
    return Work(f"Checks of {mib} MiB", RATE, [plain, typed, summed, *others], plain)


def _kept(stage: Stage, form: Path) -> Case:
    """Return a case whose bytes are recorded for the quarantine and dropped when the file passes."""
    flags = ("--validator=bench_validators:First", f"--quarantine={stage.directory / 'quarantine'}")
    return stage.relay("quarantine", stage.post(form), stage.size, *flags)


def _matched(stage: Stage, form: Path) -> Case:
    """Return a case with a thousand YARA rules."""
    if find_spec("yara_x") is None:
        return Case("YARA", lambda _: None, absent="yara-x is not installed")
    rules = stage.directory / "rules.yar"
    rules.write_text(
        "\n".join(f'rule r{n} {{ strings: $a = "aiorelay-bench-{n}" condition: $a }}' for n in range(1000))
    )
    return stage.relay("YARA", stage.post(form), stage.size, f"--yara={rules}", "--yara-max-size=10GiB")


def _validated(stage: Stage, form: Path, number: int) -> Case:
    """Return a case with validators side by side, each of which computes a SHA-256 in a thread of its own."""
    flags = [f"--validator=bench_validators:{name}" for name in bench_validators.__all__[:number]]
    return stage.relay(f"{number} validators" if number > 1 else "1 validator", stage.post(form), stage.size, *flags)


def _scanned(stage: Stage, form: Path) -> list[Case]:
    """Return a case with ClamAV alone, and one with ClamAV and a validator side by side."""
    if shutil.which("clamd") is None:
        return [Case("ClamAV", lambda _: None, absent="clamd is not installed")]
    process, socket = stage.stack.enter_context(clamd(stage.directory / "clamd"))
    flags = (f"--clamd={socket}", "--clamd-timeout=10m")
    alone = stage.relay("ClamAV", stage.post(form), stage.size, *flags)
    both = stage.relay(
        "ClamAV and a validator", stage.post(form), stage.size, *flags, "--validator=bench_validators:First"
    )
    both.compare(RATE, 0.9, alone)
    for case in (alone, both):
        case.serving += (process,)
    return [alone, both]


WORKS: dict[str, Callable[[Stage], Work]] = {
    "relay": _relay,
    "resumable": _resumable,
    "parallel": _parallel,
    "small": _small,
    "crowd": _crowd,
    "sources": _sources,
    "shapes": _shapes,
    "sizes": _sizes,
    "behind": _behind,
    "pythons": _pythons,
    "pythons-small": _small_on_pythons,
    "start": _start,
    "checks": _checks,
}
