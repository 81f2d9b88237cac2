"""What a published schema forbids in a document: the part of JSON Schema that ours use."""

from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$") -> list[str]:
    """What in ``value`` ``schema`` forbids, whose references lead into ``root``."""
    if "$ref" in schema:
        known = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        rest = {key: part for key, part in schema.items() if key != "$ref"}
        return problems(value, known, root, at) + problems(value, rest, root, at)
    found = []
    if "const" in schema and value != schema["const"]:
        found.append(f"{at} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at} is none of {schema['enum']}")
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        allowed = tuple(kind for name in names for kind in TYPES[name])
        # To Python a bool is an int, to JSON it is not.
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            return [*found, f"{at} is {value!r}, not {' or '.join(names)}"]
    if isinstance(value, dict):
        found += [f"{at}.{key} is missing" for key in schema.get("required", ()) if key not in value]
        for key, part in schema.get("properties", {}).items():
            if key in value:
                found += problems(value[key], part, root, f"{at}.{key}")
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            found += problems(item, schema["items"], root, f"{at}[{number}]")
    return found
