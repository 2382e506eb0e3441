// What a server is made of. `tools.ts` holds a value of these types; the rest of this folder reads it.

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type JsonObject = { readonly [key: string]: Json };
export type Schema = boolean | JsonObject;

export interface Server {
  readonly name: string;
  readonly version: string;
  readonly title?: string;
  readonly instructions?: string;
  /** Where requests go. An address that the operator sets in `env` wins over `url`. */
  readonly bases: readonly Base[];
  readonly auth: { readonly [scheme: string]: Scheme };
  readonly tools: readonly Tool[];
  /** Operations that are not tools of their own, but are found, described and called by four tools. */
  readonly operations?: readonly Tool[];
}

export interface Base {
  readonly url: string | null;
  readonly env: string;
}

export type Scheme =
  | { readonly kind: "api_key"; readonly in: "header" | "query" | "cookie"; readonly name: string; readonly env: string }
  | { readonly kind: "bearer"; readonly env: string }
  | { readonly kind: "basic"; readonly username_env: string; readonly password_env: string }
  | {
      readonly kind: "client_credentials";
      readonly token_url: string;
      readonly client_id_env: string;
      readonly client_secret_env: string;
      readonly scopes: readonly string[];
      /** A token that is used as it is, instead of one that is asked for. */
      readonly env: string;
    };

export interface Tool {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly annotations: Annotations;
  readonly inputSchema: JsonObject;
  readonly outputSchema?: JsonObject;
  readonly action: Action;
}

export interface Annotations {
  readonly readOnlyHint: boolean;
  readonly destructiveHint: boolean;
  readonly idempotentHint: boolean;
  readonly openWorldHint: boolean;
}

export type Action = HttpAction | GraphqlAction | BuiltinAction | MetaAction;

export interface HttpAction {
  readonly kind: "http";
  readonly method: string;
  /** With `{name}` where a path parameter stands. */
  readonly path: string;
  /** Which of the server's bases the path is below. */
  readonly base: number;
  readonly params: readonly Param[];
  readonly body?: Body;
  /** Sets of schemes, of which one has to be satisfied; an empty set asks for nothing. */
  readonly security: readonly (readonly string[])[];
  readonly accept: string;
}

export interface Param {
  /** The argument of the tool; absent where `value` is sent each time. */
  readonly arg?: string;
  readonly value?: Json;
  /** What is sent where no argument is given. */
  readonly default?: Json;
  readonly name: string;
  readonly in: "path" | "query" | "header" | "cookie";
  readonly style: Style;
  readonly explode: boolean;
  /** Characters of RFC 3986's reserved set stay as they are. */
  readonly reserved?: boolean;
  /** Written in this media type instead of a style. */
  readonly content?: string;
}

export type Style = "simple" | "label" | "matrix" | "form" | "spaceDelimited" | "pipeDelimited" | "tabDelimited" | "deepObject";

export interface Body {
  readonly arg?: string;
  readonly value?: Json;
  readonly content_type: string;
  readonly parts?: { readonly [property: string]: Part };
}

/** How one property of a form is written. */
export interface Part {
  readonly content_type?: string;
  readonly style?: Style;
  readonly explode?: boolean;
  readonly reserved?: boolean;
  /** The argument is base64 of what is sent. */
  readonly binary?: boolean;
}

export interface GraphqlAction {
  readonly kind: "graphql";
  readonly path: string;
  readonly base: number;
  readonly query: string;
  readonly security: readonly (readonly string[])[];
}

export interface BuiltinAction {
  readonly kind: "builtin";
  readonly handler: string;
}

export interface MetaAction {
  readonly kind: "meta";
  readonly does: "find" | "describe" | "read" | "write";
}

export interface Result {
  readonly content: readonly JsonObject[];
  readonly structuredContent?: JsonObject;
  readonly isError?: boolean;
}

/** What a tool could not do, told to the model: what is wrong, and what to change. */
export class ToolError extends Error {}

export function failed(text: string): Result {
  return { content: [{ type: "text", text }], isError: true };
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
