// Four tools for an API with more operations than a model can be shown: find, describe, and call what reads or writes.

import { problems } from "./schema.js";
import { isObject, ToolError, type Json, type JsonObject, type MetaAction, type Result, type Server, type Tool } from "./types.js";

const MOST_FOUND = 50;
const USUALLY_FOUND = 20;

export type Invoke = (tool: Tool, args: JsonObject) => Promise<Result>;

export async function callMeta(server: Server, action: MetaAction, args: JsonObject, invoke: Invoke): Promise<Result> {
  const operations = server.operations ?? [];
  if (action.does === "find") return find(operations, args);
  const name = args["operation"];
  const operation = operations.find((one) => one.name === name);
  if (operation === undefined) throw new ToolError(`There is no operation ${JSON.stringify(name)}: find its name first.`);
  if (action.does === "describe") return text(describe(operation));
  const reads = operation.annotations.readOnlyHint;
  if (reads !== (action.does === "read")) {
    throw new ToolError(`${operation.name} ${reads ? "only reads: call it by the tool that reads" : "changes things: call it by the tool that writes"}.`);
  }
  const given = args["arguments"] ?? {};
  if (!isObject(given)) throw new ToolError("arguments must be an object.");
  const wrong = problems(given, operation.inputSchema);
  if (wrong.length > 0) throw new ToolError(`${wrong.join("\n")}\n${operation.name} takes: ${JSON.stringify(operation.inputSchema)}`);
  return invoke(operation, given);
}

function text(value: Json): Result {
  return { content: [{ type: "text", text: JSON.stringify(value) }] };
}

function describe(operation: Tool): Json {
  const { name, title, description, annotations, inputSchema } = operation;
  return { name, title, description, reads: annotations.readOnlyHint, arguments: inputSchema };
}

function words(value: string): string[] {
  return value.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter((word) => word !== "");
}

/** Words in the name count three times those in the rest; ties keep the document's order. */
function find(operations: readonly Tool[], args: JsonObject): Result {
  const wanted = words(typeof args["query"] === "string" ? args["query"] : "");
  const limit = Math.min(typeof args["limit"] === "number" ? args["limit"] : USUALLY_FOUND, MOST_FOUND);
  const scored = operations.map((operation, index) => ({ operation, index, score: score(operation, wanted) }));
  const found = scored.filter((one) => wanted.length === 0 || one.score > 0).sort((a, b) => b.score - a.score || a.index - b.index);
  const shown = found.slice(0, limit).map(({ operation }) => ({ name: operation.name, title: operation.title, reads: operation.annotations.readOnlyHint }));
  return text({ operations: shown, found: found.length, of: operations.length });
}

function score(operation: Tool, wanted: readonly string[]): number {
  const name = words(operation.name);
  const rest = new Set(words(`${operation.title} ${operation.description}`));
  let sum = 0;
  for (const word of wanted) {
    const stem = word.length > 3 ? word.replace(/s$/, "") : word;
    if (name.some((part) => part === word || part === stem || part === `${stem}s`)) sum += 3;
    else if (rest.has(word) || rest.has(stem) || rest.has(`${stem}s`)) sum += 1;
  }
  return sum;
}
