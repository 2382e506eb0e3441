"""What all generated servers have in common: the protocol, the check of arguments, and requests as OpenAPI writes them.

It needs Python 3.10 and nothing else. The last line of the file that it stands in calls `main` with what the server offers.
"""

import base64
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

MODERN = "2026-07-28"
LEGACY = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]
PREFIX = "io.modelcontextprotocol/"
MOST_TEXT = 25_000
MOST_BYTES = 8 << 20
PAGE = 100
MOST_PROBLEMS = 8


class ToolError(Exception):
    """What a tool could not do, told to the model: what is wrong, and what to change."""


class RpcError(Exception):
    def __init__(self, code, message, data=None):
        super().__init__(message)
        self.code, self.data = code, data


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def failed(text):
    return {"content": [{"type": "text", "text": text}], "isError": True}


def variable(name):
    value = os.environ.get(name, "").strip()
    # Some clients leave a placeholder where their user gave nothing.
    return None if value == "" or value.startswith("${") else value


# Arguments against their schema (JSON Schema 2020-12, the part that API documents use)


def type_of(value):
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (int, "number"), (float, "number"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return name
    return "unknown"


def same(a, b):
    return type_of(a) == type_of(b) and a == b


def problems(value, schema):
    found = []
    check(value, schema, "", schema if isinstance(schema, dict) else {}, found, 0)
    return found[:MOST_PROBLEMS]


def compiled(pattern):
    try:
        return re.compile(pattern)
    except re.error:
        return None  # Of another dialect: left to the API.


def check(value, schema, place, root, found, depth):
    if schema is True or depth > 64 or len(found) >= MOST_PROBLEMS:
        return
    say = lambda text: found.append(f"{place[1:] or 'arguments'} {text}")
    if schema is False:
        return say("is not allowed")
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        target = root
        for part in reference[1:].split("/")[1:]:
            target = target.get(urllib.parse.unquote(part).replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, dict) else {}
        check(value, target, place, root, found, depth + 1)
    own = type_of(value)
    wanted = schema.get("type")
    if wanted is not None:
        kinds = wanted if isinstance(wanted, list) else [wanted]
        whole = own == "number" and (isinstance(value, int) or value.is_integer())
        if own not in kinds and not ("integer" in kinds and whole):
            return say(f"must be {' or '.join(kinds)}, not {own}")
    if isinstance(schema.get("enum"), list) and not any(same(one, value) for one in schema["enum"]):
        say("must be one of " + ", ".join(compact(one) for one in schema["enum"]))
    if "const" in schema and not same(schema["const"], value):
        say(f"must be {compact(schema['const'])}")
    if own == "string":
        check_text(value, schema, say)
    elif own == "number":
        check_number(value, schema, say)
    elif own == "array":
        check_items(value, schema, place, root, found, depth, say)
    elif own == "object":
        check_members(value, schema, place, root, found, depth, say)
    check_combined(value, schema, place, root, found, depth, say)


def bound(schema, name):
    value = schema.get(name)
    return value if type_of(value) == "number" else None


def check_text(value, schema, say):
    low, high = bound(schema, "minLength"), bound(schema, "maxLength")
    if low is not None and len(value) < low:
        say(f"must have at least {low} characters")
    if high is not None and len(value) > high:
        say(f"must have at most {high} characters")
    expression = compiled(schema["pattern"]) if isinstance(schema.get("pattern"), str) else None
    if expression is not None and not expression.search(value):
        say(f"must match {schema['pattern']}")


def check_number(value, schema, say):
    for name, fits, words in (
        ("minimum", lambda b: value >= b, "at least"),
        ("maximum", lambda b: value <= b, "at most"),
        ("exclusiveMinimum", lambda b: value > b, "more than"),
        ("exclusiveMaximum", lambda b: value < b, "less than"),
    ):
        limit = bound(schema, name)
        if limit is not None and not fits(limit):
            say(f"must be {words} {limit}")
    step = bound(schema, "multipleOf")
    if step and step > 0 and abs(value / step - round(value / step)) > 1e-9 * max(1, abs(value / step)):
        say(f"must be a multiple of {step}")


def check_items(value, schema, place, root, found, depth, say):
    low, high = bound(schema, "minItems"), bound(schema, "maxItems")
    if low is not None and len(value) < low:
        say(f"must have at least {low} items")
    if high is not None and len(value) > high:
        say(f"must have at most {high} items")
    if schema.get("uniqueItems") is True and any(same(item, other) for at, item in enumerate(value) for other in value[:at]):
        say("must not have the same item twice")
    first = schema.get("prefixItems") or []
    for at, item in enumerate(value):
        own = first[at] if at < len(first) else schema.get("items")
        if own is not None:
            check(item, own, f"{place}.{at}", root, found, depth + 1)


def check_members(value, schema, place, root, found, depth, say):
    properties, additional = schema.get("properties") or {}, schema.get("additionalProperties")
    patterns = [(compiled(pattern), one) for pattern, one in (schema.get("patternProperties") or {}).items()]
    for name in schema.get("required") or []:
        if name not in value:
            say(f"must have {compact(name)}")
    low, high = bound(schema, "minProperties"), bound(schema, "maxProperties")
    if low is not None and len(value) < low:
        say(f"must have at least {low} members")
    if high is not None and len(value) > high:
        say(f"must have at most {high} members")
    for name, member in value.items():
        matched = [one for pattern, one in patterns if pattern is not None and pattern.search(name)]
        if name in properties:
            check(member, properties[name], f"{place}.{name}", root, found, depth + 1)
        for one in matched:
            check(member, one, f"{place}.{name}", root, found, depth + 1)
        if name in properties or matched or additional is None:
            continue
        if additional is False:
            known = ", ".join(properties)
            say(f"has no {compact(name)}; it takes {known or 'nothing'}")
        else:
            check(member, additional, f"{place}.{name}", root, found, depth + 1)


def check_combined(value, schema, place, root, found, depth, say):
    def wrong(one):
        inner = []
        check(value, one, place, root, inner, depth + 1)
        return inner

    for one in schema.get("allOf") or []:
        check(value, one, place, root, found, depth + 1)
    for name in ("anyOf", "oneOf"):
        # Documents often have alternatives that do not exclude each other; an API takes what fits one of them.
        tried = [wrong(one) for one in schema.get(name) or []]
        if tried and all(tried):
            found.extend(min(tried, key=len))
    if "not" in schema and not wrong(schema["not"]):
        say("has a form that is not allowed")


# Requests, as OpenAPI's styles say (3.1, "Style Values" and RFC 6570)

RESERVED = ":/?@!$'()*,;"
DELIMITERS = {"spaceDelimited": "%20", "pipeDelimited": "%7C", "tabDelimited": "%09"}


def encoded(text):
    return urllib.parse.quote(text, safe="")


def encoded_reserved(text):
    return urllib.parse.quote(text, safe=RESERVED)


def text_of(value):
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return compact(value)


def in_path(param, value):
    # A question mark would end the path.
    encode = (lambda text: encoded_reserved(text).replace("?", "%3F")) if param.get("reserved") else encoded
    written = encode(compact(value)) if "content" in param else styled(param, value, encode)
    bare = written.replace("%2E", ".").replace("%2e", ".")
    arg = param.get("arg", param["name"])
    if bare in ("", ".", ".."):
        raise ToolError(f'{arg} must not be empty, "." or ".."')
    if param.get("reserved") and any(part in (".", "..") for part in bare.split("/")):
        raise ToolError(f'{arg} must not have "." or ".." between slashes')
    return written


def styled(param, value, encode):
    style, explode, name = param["style"], param["explode"], encoded(param["name"])
    prefix = {"label": ".", "matrix": ";"}.get(style, "")
    if isinstance(value, list):
        items = [encode(text_of(item)) for item in value]
        if style == "matrix":
            return "".join(f";{name}={item}" for item in items) if explode else f";{name}={','.join(items)}"
        return prefix + ("." if style == "label" and explode else ",").join(items)
    if isinstance(value, dict):
        pairs = [(encode(key), encode(text_of(member))) for key, member in value.items()]
        flat = ",".join(part for pair in pairs for part in pair)
        if style == "matrix":
            return "".join(f";{key}={member}" for key, member in pairs) if explode else f";{name}={flat}"
        if not explode:
            return prefix + flat
        return prefix + ("." if style == "label" else ",").join(f"{key}={member}" for key, member in pairs)
    text = encode(text_of(value))
    if style == "matrix":
        return f";{name}={text}" if text else f";{name}"
    return prefix + text


def in_query(param, value):
    encode = encoded_reserved if param.get("reserved") else encoded
    name, style = encoded(param["name"]), param["style"]
    if "content" in param:
        return [f"{name}={encode(compact(value) if 'json' in param['content'] else text_of(value))}"]
    if style == "deepObject" and isinstance(value, (dict, list)):
        return deep(name, value, encode)
    if isinstance(value, list):
        items = [encode(text_of(item)) for item in value]
        return [f"{name}={item}" for item in items] if param["explode"] else [f"{name}={DELIMITERS.get(style, ',').join(items)}"]
    if isinstance(value, dict):
        pairs = [(encode(key), encode(text_of(member))) for key, member in value.items()]
        if param["explode"]:
            return [f"{key}={member}" for key, member in pairs]
        return [f"{name}={DELIMITERS.get(style, ',').join(part for pair in pairs for part in pair)}"]
    return [f"{name}={encode(text_of(value))}"]


def deep(name, value, encode):
    if isinstance(value, list):
        return [pair for item in value for pair in deep(name, item, encode)]
    if isinstance(value, dict):
        return [pair for key, member in value.items() for pair in deep(f"{name}%5B{encode(key)}%5D", member, encode)]
    return [f"{name}={encode(text_of(value))}"]


def in_header(param, value):
    text = compact(value) if "content" in param else styled({**param, "style": "simple"}, value, lambda part: part)
    if any(ord(char) > 255 or (ord(char) < 32 and char != "\t") or ord(char) == 127 for char in text):
        raise ToolError(f"{param.get('arg', param['name'])} cannot stand in a header: it has line breaks or characters beyond Latin-1")
    return text.strip()


def decoded(value, name):
    try:
        return base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except (ValueError, AttributeError):
        raise ToolError(f"{name} must be base64") from None


def body_of(body, args):
    if "value" not in body and body.get("arg") not in args:
        return None
    value = body["value"] if "value" in body else args[body["arg"]]
    name = body.get("arg", "body")
    media = body["content_type"]
    bare = media.split(";")[0].strip().lower()
    if bare == "multipart/form-data":
        return multipart(body, value, name)
    if bare == "application/x-www-form-urlencoded":
        return media, form(body, value, name).encode()
    if bare == "application/json" or bare.endswith("+json"):
        return media, compact(value).encode()
    if "ndjson" in bare or "jsonl" in bare:
        return media, ("\n".join(compact(line) for line in value) if isinstance(value, list) else text_of(value)).encode()
    if bare.startswith("text/") or bare.endswith("/xml") or bare.endswith("+xml"):
        return media, text_of(value).encode()
    return media, decoded(value, name)


def form(body, value, name):
    if not isinstance(value, dict):
        raise ToolError(f"{name} must be an object: it is sent as a form")
    pairs = []
    for key, member in value.items():
        part = (body.get("parts") or {}).get(key, {})
        nested = isinstance(member, dict) or (isinstance(member, list) and any(isinstance(item, (dict, list, type(None))) for item in member))
        content = part.get("content_type") or ("application/json" if nested and "style" not in part else None)
        param = {"name": key, "style": part.get("style", "form"), "explode": part.get("explode", True), "reserved": part.get("reserved", False)}
        pairs += in_query({**param, "content": content} if content and "json" in content else param, member)
    return "&".join(pair.replace("%20", "+") for pair in pairs)


def multipart(body, value, name):
    if not isinstance(value, dict):
        raise ToolError(f"{name} must be an object: each member is a part of the form")
    parts = []
    for key, member in value.items():
        part = (body.get("parts") or {}).get(key, {})
        for item in member if isinstance(member, list) and "content_type" not in part else [member]:
            parts.append((key, part, decoded(item, key) if part.get("binary") else text_of(item).encode(), isinstance(item, dict)))
    number = 0
    while any(f"form-{number}-7d81b2a4c6".encode() in content for _, _, content, _ in parts):
        number += 1
    boundary = f"form-{number}-7d81b2a4c6"
    lines = []
    for key, part, content, is_object in parts:
        quoted = re.sub('["\r\n]', lambda char: f"%{ord(char[0]):02X}", key)
        media = part.get("content_type") or ("application/octet-stream" if part.get("binary") else "application/json" if is_object else None)
        file = f'; filename="{quoted}"' if part.get("binary") else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{quoted}"{file}\r\n' + (f"Content-Type: {media}\r\n" if media else "")
        lines.append(head.encode() + b"\r\n" + content + b"\r\n")
    return f"multipart/form-data; boundary={boundary}", b"".join(lines) + f"--{boundary}--\r\n".encode()


def build(action, args):
    path, query, headers, cookies = action["path"], [], [], []
    for param in action["params"]:
        value = param["value"] if "value" in param else args.get(param["arg"], param.get("default"))
        if value is None and "value" not in param and param["arg"] not in args:
            if param["in"] == "path":
                raise ToolError(f"{param['arg']} is needed: it stands in the path")
            continue
        if param["in"] == "path":
            path = path.replace("{" + param["name"] + "}", in_path(param, value))
        elif param["in"] == "query":
            query += in_query(param, value)
        elif param["in"] == "header":
            headers.append((param["name"], in_header(param, value)))
        else:
            cookies += in_query({**param, "style": "form"}, value)
    return path, query, headers, cookies, body_of(action["body"], args) if "body" in action else None
