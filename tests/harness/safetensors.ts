/** A second, independent reader of fp32 safetensors, so that the product's writer is not checked by itself. */
export function parseSafetensors(bytes: Uint8Array): {
  tensors: Map<string, { shape: number[]; values: Float32Array }>;
  metadata: Record<string, string>;
} {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const tensors = new Map<string, { shape: number[]; values: Float32Array }>();
  for (
    const [name, entry] of Object.entries<{ dtype: string; shape: number[]; data_offsets: [number, number] }>(header)
  ) {
    if (name === "__metadata__") continue;
    if (entry.dtype !== "F32") throw new Error(`tensor ${name} has dtype ${entry.dtype}`);
    const [begin, end] = entry.data_offsets;
    const data = bytes.slice(8 + length + begin, 8 + length + end);
    tensors.set(name, { shape: entry.shape, values: new Float32Array(data.buffer) });
  }
  return { tensors, metadata: header["__metadata__"] ?? {} };
}
