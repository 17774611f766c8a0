#!/usr/bin/python3
"""Read `cargo metadata` and print a CycloneDX 1.5 list of what the program is built from.

Development dependencies are left out. Source: CycloneDX 1.5, bom-1.5.schema.json.
"""

import json
import sys
import uuid


def main():
    data = json.load(sys.stdin)
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    root = data["resolve"]["root"]

    def needed(identifier):
        kinds = lambda dep: {kind["kind"] for kind in dep["dep_kinds"]}
        return [d["pkg"] for d in nodes[identifier]["deps"] if kinds(d) & {None, "build"}]

    seen, waiting = set(), [root]
    while waiting:
        identifier = waiting.pop()
        if identifier not in seen:
            seen.add(identifier)
            waiting.extend(needed(identifier))

    def purl(package):
        return f"pkg:cargo/{package['name']}@{package['version']}"

    def component(package):
        entry = {
            "type": "application" if package["id"] == root else "library",
            "bom-ref": purl(package),
            "name": package["name"],
            "version": package["version"],
            "purl": purl(package),
        }
        if package.get("license"):
            # Old crates separate licences by a slash.
            entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        return entry

    others = sorted((packages[i] for i in seen if i != root), key=lambda p: (p["name"], p["version"]))
    refs = lambda identifier: sorted({purl(packages[i]) for i in needed(identifier)})
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(packages[root])},
        "components": [component(p) for p in others],
        "dependencies": [
            {"ref": purl(packages[i]), "dependsOn": refs(i)} for i in sorted(seen, key=lambda i: purl(packages[i]))
        ],
    }
    # The same contents have the same number.
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))
    bom["serialNumber"] = f"urn:uuid:{number}"
    print(json.dumps(bom, indent=1))


main()
