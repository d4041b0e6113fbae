"""JSON schema of the corpus manifest, by which editors complete keys and mark faults."""

from typing import Any

from flowloom.schemas.corpus.flow_definition import PRESETS
from flowloom.schemas.corpus.manifest import CorpusManifest

SCHEMA_LINE = "# yaml-language-server: $schema=manifest.schema.json"
"""First line of a manifest beside the schema that `flowloom schema manifest` prints."""


def manifest_schema() -> dict[str, Any]:
    """Returns the JSON schema of a manifest as users write it, draft 2020-12.

    It checks keys and values one by one; rules between keys, such as labels and vocabularies, are checked by the build.
    """
    schema = CorpusManifest.model_json_schema()
    definitions, keys = schema["$defs"], schema["properties"]
    # tasks are a mapping by name, which a validator turns into a list
    definitions["Task"]["properties"].pop("name")
    definitions["Task"]["required"].remove("name")
    keys["tasks"] = {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/Task"}}
    # a preset names columns
    named = definitions["TableColumns"].pop("required")
    definitions["LabelTable"]["required"].remove("columns")
    own = {"type": "object", "required": ["columns"], "properties": {"columns": {"type": "object", "required": named}}}
    definitions["LabelTable"]["anyOf"] = [{"type": "object", "required": ["preset"]}, own]
    definition = definitions["FlowDefinition"]["properties"]
    definition["preset"]["enum"] = list(PRESETS)
    definition["tunnels"] = {"anyOf": [definition["tunnels"], {"const": "all"}]}
    for model in definitions.values():
        if "labels_as" in model.get("properties", {}):
            tasks = model["properties"]["labels_as"]["additionalProperties"]
            model["properties"]["labels_as"]["additionalProperties"] = {"anyOf": [tasks, {"type": "string"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Flowloom corpus manifest"}
