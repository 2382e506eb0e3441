// The part of Node.js that this server uses, so that its types can be checked without a dependency.

declare const process: {
  readonly env: { readonly [name: string]: string | undefined };
  readonly pid: number;
  readonly stdin: object;
  readonly stdout: { write(text: string, done?: () => void): boolean; on(event: "error", does: () => void): void };
  readonly stderr: { write(text: string): boolean };
  exit(code: number): never;
};

declare module "node:readline" {
  interface Interface {
    on(event: "line", does: (line: string) => void): void;
    on(event: "close", does: () => void): void;
  }
  export function createInterface(options: { readonly input: object; readonly crlfDelay: number; readonly terminal: boolean }): Interface;
}

declare module "node:os" {
  export function homedir(): string;
}

declare module "node:path" {
  export const sep: string;
  export function join(...parts: readonly string[]): string;
  export function resolve(...parts: readonly string[]): string;
  export function dirname(path: string): string;
  export function isAbsolute(path: string): boolean;
}

declare module "node:net" {
  export function isIP(text: string): 0 | 4 | 6;
  export class BlockList {
    addSubnet(prefix: string, length: number, family: "ipv4" | "ipv6"): void;
    check(address: string, family: "ipv4" | "ipv6"): boolean;
  }
}

declare module "node:dns" {
  interface Address {
    readonly address: string;
    readonly family: number;
  }
  export function lookup(host: string, options: { readonly all: true }, done: (error: Error | null, found: Address[]) => void): void;
}

declare module "node:http" {
  import type { Address } from "node:dns";
  type Done = (error: Error | null, address: string | Address[], family?: number) => void;
  export type Lookup = (host: string, options: { readonly all?: boolean }, done: Done) => void;
  interface Response {
    readonly statusCode?: number;
    readonly headers: { readonly [name: string]: string | undefined };
    on(event: "data", does: (chunk: Uint8Array) => void): void;
    on(event: "end", does: () => void): void;
    on(event: "error", does: (error: Error) => void): void;
    destroy(): void;
  }
  interface Options {
    readonly lookup: Lookup;
    readonly headers: { readonly [name: string]: string };
    readonly signal: AbortSignal;
  }
  interface Request {
    on(event: "error", does: (error: Error) => void): void;
  }
  export function get(url: URL, options: Options, answered: (response: Response) => void): Request;
}

declare module "node:https" {
  export { get } from "node:http";
}

declare module "node:fs/promises" {
  interface Stats {
    readonly size: number;
    isSymbolicLink(): boolean;
  }
  interface Entry {
    readonly name: string;
    isDirectory(): boolean;
  }
  export function mkdir(path: string, options: { readonly recursive: true }): Promise<string | undefined>;
  export function readFile(path: string): Promise<Uint8Array>;
  export function readFile(path: string, encoding: "utf8"): Promise<string>;
  export function writeFile(path: string, bytes: string | Uint8Array, options: { readonly mode: number }): Promise<void>;
  export function rename(from: string, to: string): Promise<void>;
  export function rm(path: string, options: { readonly force: true }): Promise<void>;
  export function unlink(path: string): Promise<void>;
  export function realpath(path: string): Promise<string>;
  export function stat(path: string): Promise<Stats>;
  export function lstat(path: string): Promise<Stats>;
  export function readdir(path: string, options: { readonly withFileTypes: true }): Promise<Entry[]>;
}
