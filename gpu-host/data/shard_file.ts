import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { canonicalJson } from "../checkpoint/canonical_json.ts";
import { readSafetensors, type TensorOutput, writeSafetensors } from "../peft/safetensors.ts";
import type { ShardStats, TokenShard } from "./shard.ts";

const FORMAT = "tlora-shard-1";

/** SHA-256 of a shard's content: two shards with the same one train the same. */
export function shardSha256(shard: TokenShard): string {
  const hash = createHash("sha256").update(canonicalJson(shard.stats));
  for (const name of ["lossTokens", "offsets", "targets", "tokens"] as const) {
    const { buffer, byteOffset, byteLength } = shard[name];
    hash.update(`\n${name} ${byteLength}\n`).update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return hash.digest("hex");
}

export function encodeShard(shard: TokenShard, key: string): Uint8Array<ArrayBuffer> {
  const metadata = { format: FORMAT, key, stats: canonicalJson(shard.stats), sha256: shardSha256(shard) };
  return assemble(shard, metadata);
}

/** null where the bytes are not a whole shard made for this key: it is then made anew. */
export function decodeShard(bytes: Uint8Array, key: string): TokenShard | null {
  let shard: TokenShard;
  let metadata: Record<string, string>;
  try {
    const file = readSafetensors(bytes);
    metadata = file.metadata;
    const array = (name: string): ArrayBuffer => (file.tensors.get(name) as TensorOutput).bytes.slice().buffer;
    const offsets = new Uint32Array(array("offsets"));
    shard = {
      examples: offsets.length - 1,
      tokens: new Int32Array(array("tokens")),
      targets: new Int32Array(array("targets")),
      offsets,
      lossTokens: new Uint32Array(array("lossTokens")),
      stats: JSON.parse(metadata["stats"] ?? "") as ShardStats,
    };
  } catch {
    return null;
  }
  const expected = { format: FORMAT, key, stats: metadata["stats"] ?? "", sha256: shardSha256(shard) };
  return Buffer.compare(assemble(shard, expected), bytes) === 0 ? shard : null;
}

function assemble(shard: TokenShard, metadata: Record<string, string>): Uint8Array<ArrayBuffer> {
  return writeSafetensors([
    { name: "tokens", dtype: "I32", shape: [shard.tokens.length], data: shard.tokens },
    { name: "targets", dtype: "I32", shape: [shard.targets.length], data: shard.targets },
    { name: "offsets", dtype: "U32", shape: [shard.offsets.length], data: shard.offsets },
    { name: "lossTokens", dtype: "U32", shape: [shard.lossTokens.length], data: shard.lossTokens },
  ], metadata);
}
