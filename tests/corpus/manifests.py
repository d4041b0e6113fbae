"""Write the corpus's two manifests, `aurora.yaml` and `rainbow.yaml`, from the list of what is recorded.

Usage:  python tests/corpus/manifests.py
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from attacks import ATTACKS
from record import TUNNELS
from scenarios import APPS

TAIL = """layout: {layout}
splits: {{by: capture, train: 0.64, validation: 0.16, test: 0.20, seed: 7}}
identity: keep
output: {{shards: 2}}
"""
SHARES = {"syn_flood": (1, 4), "ssdp_flood": (2, 5), "tls_renegotiation": (3, 6)}
"""The benign sessions that serve each binary task as further negatives: a third of them each."""


def capture(glob: str, **labels: str) -> str:
    """Returns one entry of `captures`."""
    pairs = ", ".join(f"{name}: {word}" for name, word in labels.items())
    return f'  - glob: "captures/{glob}"\n    labels: {{{pairs}}}'


def words(vocabulary: Iterable[str]) -> str:
    """Returns a vocabulary as YAML."""
    return f"[{', '.join(vocabulary)}]"


def aurora() -> Iterator[str]:
    """Four multi-class tasks in one schema; a task that a capture says nothing about stays unlabelled."""
    yield "name: embedded-aurora\ncaptures:"
    for name, app in APPS.items():
        for tunnel in TUNNELS:
            labels = {"app": name, "traffic": app.traffic, "tunnel": tunnel, "attack": "none"}
            yield capture(f"{app.traffic}/{name}/{tunnel}-*", **labels)
    for name in ATTACKS:
        yield capture(f"attack/{name}/attack-*", tunnel="plain", attack=name)
        yield capture(f"attack/{name}/benign-*", tunnel="plain", attack="none")
    yield "definition: {preset: default, k: 20}\nviews: [flows]\ntasks:"
    yield f"  app:     {{kind: multiclass, vocabulary: {words(APPS)}}}"
    yield f"  traffic: {{kind: multiclass, vocabulary: {words(dict.fromkeys(app.traffic for app in APPS.values()))}}}"
    yield f"  tunnel:  {{kind: multiclass, vocabulary: {words(TUNNELS)}}}"
    yield f"  attack:  {{kind: multiclass, vocabulary: {words(['none', *ATTACKS])}}}"
    yield TAIL.format(layout="aurora")


def rainbow() -> Iterator[str]:
    """Three binary tasks on disjoint captures, one attack set each."""
    yield "name: embedded-rainbow\ncaptures:"
    for name in ATTACKS:
        yield capture(f"attack/{name}/attack-*", **{name: "positive"})
        yield capture(f"attack/{name}/benign-*", **{name: "negative"})
        for number in SHARES[name]:
            for tunnel in TUNNELS:
                yield capture(f"*/*/{tunnel}-{number:02d}.*", **{name: "negative"})
    yield "definition: {preset: default, k: 20}\nviews: [flows]\ntasks:"
    for name in ATTACKS:
        yield f"  {name}: {{kind: binary}}"
    yield TAIL.format(layout="rainbow")


def main() -> None:
    """Writes both manifests beside this file."""
    here = Path(__file__).resolve().parent
    for lines in (aurora, rainbow):
        (here / f"{lines.__name__}.yaml").write_text("\n".join(lines()))


if __name__ == "__main__":
    main()
