// Checks arguments against the JSON Schema of a tool (2020-12, the part that API documents use).

import { isObject, type Json, type JsonObject, type Schema } from "./types.js";

/** How many problems are told of at once. */
const MOST = 8;
const DEEPEST = 64;

/** What is wrong with `value`, each with the place where; nothing when it fits. */
export function problems(value: Json, schema: Schema): string[] {
  const root = isObject(schema as Json) ? (schema as JsonObject) : {};
  const found: string[] = [];
  check(value, schema, "", { root, found, depth: 0 });
  return found.slice(0, MOST);
}

interface Context {
  readonly root: JsonObject;
  readonly found: string[];
  readonly depth: number;
}

function check(value: Json, schema: Schema, place: string, context: Context): void {
  if (schema === true || context.depth > DEEPEST || context.found.length >= MOST) return;
  const say = (text: string) => context.found.push(`${place === "" ? "arguments" : place.slice(1)} ${text}`);
  if (schema === false) {
    say("is not allowed");
    return;
  }
  const deeper = { ...context, depth: context.depth + 1 };
  const reference = schema["$ref"];
  if (typeof reference === "string") {
    const target = resolve(reference, context.root);
    if (target !== undefined) check(value, target, place, deeper);
  }
  if (!checkType(value, schema, say)) return;
  checkChoice(value, schema, say);
  if (typeof value === "string") checkText(value, schema, say);
  if (typeof value === "number") checkNumber(value, schema, say);
  if (Array.isArray(value)) checkItems(value, schema, place, deeper, say);
  if (isObject(value)) checkMembers(value, schema, place, deeper, say);
  checkCombined(value, schema, place, deeper, say);
}

type Say = (text: string) => void;

function resolve(reference: string, root: JsonObject): Schema | undefined {
  if (!reference.startsWith("#")) return undefined;
  let at: Json | undefined = root;
  for (const part of reference.slice(1).split("/").slice(1)) {
    const key = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
    at = isObject(at) && Object.hasOwn(at, key) ? at[key] : undefined;
  }
  return typeof at === "boolean" || isObject(at) ? at : undefined;
}

function typeOf(value: Json): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return typeof value;
}

function checkType(value: Json, schema: JsonObject, say: Say): boolean {
  const wanted = schema["type"];
  if (wanted === undefined) return true;
  const types = Array.isArray(wanted) ? wanted : [wanted];
  const own = typeOf(value);
  const fits = types.some((type) => type === own || (type === "integer" && own === "number" && Number.isInteger(value)));
  if (!fits) say(`must be ${types.join(" or ")}, not ${own}`);
  return fits;
}

function same(a: Json, b: Json): boolean {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, index) => same(item, b[index] as Json));
  if (!isObject(a) || !isObject(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key] as Json, b[key] as Json));
}

function checkChoice(value: Json, schema: JsonObject, say: Say): void {
  const choices = schema["enum"];
  if (Array.isArray(choices) && !choices.some((choice) => same(choice, value))) {
    say(`must be one of ${choices.map((choice) => JSON.stringify(choice)).join(", ")}`);
  }
  const only = schema["const"];
  if (only !== undefined && !same(only, value)) say(`must be ${JSON.stringify(only)}`);
}

function checkText(value: string, schema: JsonObject, say: Say): void {
  const { minLength, maxLength, pattern } = schema;
  const length = [...value].length;
  if (typeof minLength === "number" && length < minLength) say(`must have at least ${minLength} characters`);
  if (typeof maxLength === "number" && length > maxLength) say(`must have at most ${maxLength} characters`);
  if (typeof pattern === "string") {
    const expression = compiled(pattern);
    if (expression !== undefined && !expression.test(value)) say(`must match ${pattern}`);
  }
}

const expressions = new Map<string, RegExp | undefined>();

/** Patterns of documents are of many dialects; one that JavaScript does not read is left to the API. */
function compiled(pattern: string): RegExp | undefined {
  if (!expressions.has(pattern)) {
    let expression: RegExp | undefined;
    try {
      expression = new RegExp(pattern, "u");
    } catch {
      expression = undefined;
    }
    expressions.set(pattern, expression);
  }
  return expressions.get(pattern);
}

function checkNumber(value: number, schema: JsonObject, say: Say): void {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema;
  if (typeof minimum === "number" && value < minimum) say(`must be at least ${minimum}`);
  if (typeof maximum === "number" && value > maximum) say(`must be at most ${maximum}`);
  if (typeof exclusiveMinimum === "number" && value <= exclusiveMinimum) say(`must be more than ${exclusiveMinimum}`);
  if (typeof exclusiveMaximum === "number" && value >= exclusiveMaximum) say(`must be less than ${exclusiveMaximum}`);
  if (typeof multipleOf === "number" && multipleOf > 0) {
    const ratio = value / multipleOf;
    if (Math.abs(ratio - Math.round(ratio)) > 1e-9 * Math.max(1, Math.abs(ratio))) say(`must be a multiple of ${multipleOf}`);
  }
}

function checkItems(value: readonly Json[], schema: JsonObject, place: string, context: Context, say: Say): void {
  const { minItems, maxItems, uniqueItems, prefixItems, items } = schema;
  if (typeof minItems === "number" && value.length < minItems) say(`must have at least ${minItems} items`);
  if (typeof maxItems === "number" && value.length > maxItems) say(`must have at most ${maxItems} items`);
  if (uniqueItems === true && value.some((item, index) => value.slice(0, index).some((other) => same(item, other)))) {
    say("must not have the same item twice");
  }
  const first = Array.isArray(prefixItems) ? (prefixItems as readonly Schema[]) : [];
  value.forEach((item, index) => {
    const own = index < first.length ? first[index] : (items as Schema | undefined);
    if (own !== undefined) check(item, own, `${place}.${index}`, context);
  });
}

function checkMembers(value: JsonObject, schema: JsonObject, place: string, context: Context, say: Say): void {
  const { required, minProperties, maxProperties, additionalProperties } = schema;
  const properties = isObject(schema["properties"]) ? schema["properties"] : {};
  const patterns = Object.entries(isObject(schema["patternProperties"]) ? schema["patternProperties"] : {});
  for (const name of Array.isArray(required) ? required : []) {
    if (typeof name === "string" && !Object.hasOwn(value, name)) say(`must have ${JSON.stringify(name)}`);
  }
  const names = Object.keys(value);
  if (typeof minProperties === "number" && names.length < minProperties) say(`must have at least ${minProperties} members`);
  if (typeof maxProperties === "number" && names.length > maxProperties) say(`must have at most ${maxProperties} members`);
  for (const name of names) {
    const member = value[name] as Json;
    const own = Object.hasOwn(properties, name) ? (properties[name] as Schema) : undefined;
    if (own !== undefined) check(member, own, `${place}.${name}`, context);
    const matched = patterns.filter(([pattern]) => compiled(pattern)?.test(name) === true);
    for (const [, more] of matched) check(member, more as Schema, `${place}.${name}`, context);
    if (own !== undefined || matched.length > 0 || additionalProperties === undefined) continue;
    if (additionalProperties === false) {
      const known = Object.keys(properties);
      say(`has no ${JSON.stringify(name)}${known.length > 0 ? `; it takes ${known.join(", ")}` : "; it takes nothing"}`);
    } else {
      check(member, additionalProperties as Schema, `${place}.${name}`, context);
    }
  }
}

function checkCombined(value: Json, schema: JsonObject, place: string, context: Context, say: Say): void {
  const list = (key: string): readonly Schema[] => (Array.isArray(schema[key]) ? (schema[key] as readonly Schema[]) : []);
  const fits = (one: Schema): boolean => {
    const found: string[] = [];
    check(value, one, place, { ...context, found });
    return found.length === 0;
  };
  for (const one of list("allOf")) check(value, one, place, context);
  const any = list("anyOf");
  if (any.length > 0 && !any.some(fits)) sayNearest(value, any, place, context, say);
  const one = list("oneOf");
  // Documents often have alternatives that do not exclude each other; an API takes what fits one of them.
  if (one.length > 0 && !one.some(fits)) sayNearest(value, one, place, context, say);
  const not = schema["not"];
  if (not !== undefined && fits(not as Schema)) say("has a form that is not allowed");
}

/** Of alternatives that all do not fit, the problems of the one with the fewest. */
function sayNearest(value: Json, alternatives: readonly Schema[], place: string, context: Context, say: Say): void {
  let nearest: string[] | undefined;
  for (const alternative of alternatives) {
    const found: string[] = [];
    check(value, alternative, place, { ...context, found });
    if (nearest === undefined || found.length < nearest.length) nearest = found;
  }
  if (nearest === undefined) say("fits none of its alternatives");
  else context.found.push(...nearest);
}
