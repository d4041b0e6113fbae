"""Software bill of materials: the packages of requirements.lock as CycloneDX 1.6 JSON.

python .ci/write_sbom.py OUT.json

The same lock and pyproject.toml give the same bytes; `SOURCE_DATE_EPOCH` adds a time. A package is required if a plain
installation needs it, else it belongs to an extra. The digests of its files are in requirements.lock.
"""

import datetime as dt
import hashlib
import json
import os
import re
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "flowloom"


class Package(NamedTuple):
    """A pinned package: its marker, empty for every platform, and the names of the packages that need it."""

    name: str
    version: str
    marker: str
    needed_by: tuple[str, ...]

    @property
    def purl(self) -> str:
        """The package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


def normal(name: str) -> str:
    """Returns the normal form of a name without extras: `Moto[s3]>=5` is `moto`."""
    found = re.match(r"[A-Za-z0-9._-]+", name)
    assert found, name
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def locked(text: str) -> list[Package]:
    """Returns the packages of a lock file that uv has written.

    Raises:
      ValueError: if a line is neither a package, nor a digest, nor a comment.
    """
    packages: list[Package] = []
    for line in text.splitlines():
        if found := re.match(r"([\w.\[\],-]+)==([^ ;\\]+) *(?:; *([^\\]*?))? *\\$", line):
            packages.append(Package(normal(found[1]), found[2], found[3] or "", ()))
        elif found := re.match(r"    # (?:via |  )(\S+)", line):
            last = packages[-1]
            packages[-1] = last._replace(needed_by=(*last.needed_by, normal(found[1])))
        elif not re.match(r"#|    --hash=sha256:|    # via$|$", line):
            raise ValueError(f"requirements.lock must be written by uv, got the line {line!r}; run make lock")
    return packages


def required(packages: list[Package], direct: set[str]) -> set[str]:
    """Returns the names that are needed by some names, these included."""
    found, grown = set(direct), True
    while grown:
        more = {package.name for package in packages if found & set(package.needed_by)} - found
        found |= more
        grown = bool(more)
    return found


def bill(lock: str, project: dict[str, Any]) -> dict[str, Any]:
    """Returns the document.

    Args:
      lock: text of requirements.lock.
      project: table `project` of pyproject.toml.
    """
    packages = locked(lock)
    plain = required(packages, {normal(name) for name in project["dependencies"]})
    itself = f"pkg:pypi/{PROJECT}@{project['version']}"
    needs: dict[str, set[str]] = {itself: set(), **{package.purl: set() for package in packages}}
    places: dict[str, list[str]] = {PROJECT: [itself]}
    for package in packages:
        places.setdefault(package.name, []).append(package.purl)
    for package in packages:
        for name in package.needed_by:
            for needer in places[name]:
                needs[needer].add(package.purl)
    component = {
        "type": "application",
        "bom-ref": itself,
        "name": PROJECT,
        "version": project["version"],
        "purl": itself,
    }
    metadata: dict[str, Any] = {
        "component": {**component, "licenses": [{"license": {"id": project["license"]}}]},
        "properties": [{"name": f"{PROJECT}:lock-sha256", "value": hashlib.sha256(lock.encode()).hexdigest()}],
    }
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        metadata["timestamp"] = dt.datetime.fromtimestamp(int(epoch), dt.UTC).isoformat()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, itself + lock)}",
        "version": 1,
        "metadata": metadata,
        "components": [
            {
                "type": "library",
                "bom-ref": package.purl,
                "name": package.name,
                "version": package.version,
                "purl": package.purl,
                "scope": "required" if package.name in plain else "optional",
                "properties": [{"name": f"{PROJECT}:marker", "value": package.marker}] if package.marker else [],
            }
            for package in packages
        ],
        "dependencies": [{"ref": purl, "dependsOn": sorted(needed)} for purl, needed in needs.items()],
    }


def main() -> None:
    """Writes the document of this repository."""
    (out,) = map(Path, sys.argv[1:])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    out.parent.mkdir(parents=True, exist_ok=True)
    document = bill((ROOT / "requirements.lock").read_text(), project)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{out}: {len(document['components'])} packages")


if __name__ == "__main__":
    main()
