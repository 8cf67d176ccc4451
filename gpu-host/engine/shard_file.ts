/**
 * A token shard as the agent hands it to an engine process: magic, length of a JSON header, header, then the four arrays one
 * after the other (little-endian, 4 bytes per element).
 */

import type { ShardStats, TokenShard } from "../data/shard.ts";

const MAGIC = "tlshard1";

interface Header {
  readonly examples: number;
  readonly rows: number;
  readonly stats: ShardStats;
}

export function encodeShard(shard: TokenShard): Uint8Array<ArrayBuffer> {
  const header = JSON.stringify(
    {
      examples: shard.examples,
      rows: shard.tokens.length,
      stats: shard.stats,
    } satisfies Header,
  );
  // The arrays must begin at a multiple of their element size.
  const text = new TextEncoder().encode(header.padEnd(Math.ceil(header.length / 4) * 4));
  const arrays = [shard.tokens, shard.targets, shard.offsets, shard.lossTokens];
  const size = arrays.reduce((sum, array) => sum + array.byteLength, 12 + text.length);
  const bytes = new Uint8Array(size);
  bytes.set(new TextEncoder().encode(MAGIC), 0);
  new DataView(bytes.buffer).setUint32(8, text.length, true);
  bytes.set(text, 12);
  let at = 12 + text.length;
  for (const array of arrays) {
    bytes.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), at);
    at += array.byteLength;
  }
  return bytes;
}

/** Throws when the bytes are not one whole shard. */
export function decodeShard(bytes: Uint8Array<ArrayBuffer>): TokenShard {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 12 || new TextDecoder().decode(bytes.subarray(0, 8)) !== MAGIC) {
    throw new Error(`not a token shard: it must begin with ${MAGIC}`);
  }
  const headerLength = view.getUint32(8, true);
  if (12 + headerLength > bytes.length) throw new Error(`token shard: header of ${headerLength} bytes passes the end`);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(12, 12 + headerLength))) as Header;
  const { examples, rows, stats } = header;
  const expected = 12 + headerLength + 4 * (2 * rows + examples + 1 + examples);
  if (bytes.length !== expected) throw new Error(`token shard: ${bytes.length} bytes, its header promises ${expected}`);
  let at = bytes.byteOffset + 12 + headerLength;
  const next = <A>(make: new (buffer: ArrayBuffer, offset: number, length: number) => A, length: number): A => {
    const array = new make(bytes.buffer, at, length);
    at += 4 * length;
    return array;
  };
  const tokens = next(Int32Array, rows);
  const targets = next(Int32Array, rows);
  const offsets = next(Uint32Array, examples + 1);
  const lossTokens = next(Uint32Array, examples);
  return { examples, tokens, targets, offsets, lossTokens, stats };
}

export function readShardFile(path: string): TokenShard {
  return decodeShard(Deno.readFileSync(path));
}
