"""Coverage-guided fuzzing of the wire, the sessions and the recognition of statements, by atheris (libFuzzer).

    python tests/fuzz/fuzz_wire.py --seconds 60 [--corpus FOLDER]

What it finds it writes into tests/fuzz/findings, where `test_findings.py` plays it at each run of the tests: mend the fault and
keep the file. The corpus that it builds up is kept in FOLDER, if one is given. Exit code 0 where nothing was found, and also, with
a line that says so, where atheris is not installed: it has no wheel for every system.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def seeds(folder: Path) -> None:
    """A first corpus: each message alone, and a few conversations."""
    for number in range(48):
        name = f"{number:03}"
        (folder / f"client-{name}").write_bytes(bytes([3, 9, 0, 7, number, 5, 3, 7, 3]))
        (folder / f"server-{name}").write_bytes(bytes([3, 9, 0, 7, 0, 4, 7, number]))
    for number, text in enumerate(
        ("SELECT a FROM t WHERE b IN (1, 'x')", "INSERT INTO t VALUES (1, $1), (2, $2)", "/* c */")
    ):
        (folder / f"text-{number}").write_bytes(b"\1" + text.encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path)
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing is left out: atheris is not installed")
        return 0
    sys.path.insert(0, str(HERE.parent))
    import atheris

    with atheris.instrument_imports(include=["pgloupe", "pgloupe_rules"]):
        from support.bytecode import play

    with tempfile.TemporaryDirectory() as temporary:
        corpus = arguments.corpus or Path(temporary)
        corpus.mkdir(parents=True, exist_ok=True)
        seeds(corpus)
        findings = HERE / "findings"
        options = [
            f"-max_total_time={arguments.seconds}",
            "-max_len=1024",
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            f"-artifact_prefix={findings}/",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus), str(findings)], play)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
