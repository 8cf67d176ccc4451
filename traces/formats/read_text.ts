/** The text of a trace file, gzipped or not. */

import { TraceError } from "./trace_error.ts";

export async function readText(path: string): Promise<string> {
  return await textOf(await Deno.readFile(path), path);
}

export async function textOf(bytes: Uint8Array<ArrayBuffer>, source: string): Promise<string> {
  const plain = isGzip(bytes) ? await unzip(bytes, source) : bytes;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(plain);
  } catch {
    throw new TraceError(`${source}: must be UTF-8 text, holds other bytes`);
  }
}

async function unzip(bytes: Uint8Array<ArrayBuffer>, source: string): Promise<Uint8Array> {
  try {
    return await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).bytes();
  } catch (error) {
    throw new TraceError(`${source}: not a whole gzip file: ${error instanceof Error ? error.message : error}`);
  }
}

function isGzip(bytes: Uint8Array): boolean {
  return bytes[0] === 0x1f && bytes[1] === 0x8b;
}
