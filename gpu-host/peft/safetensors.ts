/** The safetensors container, for files small enough to be held in memory. */

export interface TensorInput {
  name: string;
  dtype: "F32" | "I32" | "U32";
  shape: readonly number[];
  data: Float32Array | Int32Array | Uint32Array;
}

export interface TensorOutput {
  name: string;
  dtype: string;
  shape: number[];
  /** A view of the file's bytes. */
  bytes: Uint8Array;
}

export interface SafetensorsFile {
  tensors: Map<string, TensorOutput>;
  metadata: Record<string, string>;
  /** Bytes of all tensors, without the header. */
  data: Uint8Array;
}

export class SafetensorsError extends Error {
  override readonly name = "SafetensorsError";
}

const LENGTH_BYTES = 8;
/** Data begins at a multiple of this, so that a mapped file can be read in place. */
const ALIGNMENT = 64;
/** The limit of the reference implementation. */
const MAX_HEADER_BYTES = 100_000_000;
const DTYPE_BYTES: Readonly<Record<string, number>> = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
};

/** Tensors lie in the order of their names, so that the same content always gives the same bytes. */
export function writeSafetensors(
  tensors: readonly TensorInput[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array<ArrayBuffer> {
  const sorted = [...tensors].sort((a, b) => compare(a.name, b.name));
  const header: Record<string, unknown> = {
    __metadata__: Object.fromEntries(Object.entries(metadata).sort(([a], [b]) => compare(a, b))),
  };
  let length = 0;
  for (const { name, dtype, shape, data } of sorted) {
    if (name === "__metadata__" || Object.hasOwn(header, name)) {
      throw new SafetensorsError(`tensor name ${JSON.stringify(name)} must be unique and not reserved`);
    }
    const elements = shape.reduce((product, size) => product * size, 1);
    if (elements !== data.length) {
      throw new SafetensorsError(`tensor ${name}: shape [${shape}] needs ${elements} elements, not ${data.length}`);
    }
    header[name] = { dtype, shape, data_offsets: [length, length + data.byteLength] };
    length += data.byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = Math.ceil((LENGTH_BYTES + text.length) / ALIGNMENT) * ALIGNMENT - LENGTH_BYTES;
  const file = new Uint8Array(LENGTH_BYTES + headerBytes + length);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.fill(0x20, LENGTH_BYTES, LENGTH_BYTES + headerBytes);
  file.set(text, LENGTH_BYTES);
  let position = LENGTH_BYTES + headerBytes;
  for (const { data } of sorted) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), position);
    position += data.byteLength;
  }
  return file;
}

/** Tensors must fill the data section in order, without gap or overlap: a file of ours has no other form. */
export function readSafetensors(file: Uint8Array): SafetensorsFile {
  if (file.length < LENGTH_BYTES) {
    throw new SafetensorsError(`a safetensors file has at least ${LENGTH_BYTES} bytes, this one ${file.length}`);
  }
  const declared = new DataView(file.buffer, file.byteOffset, LENGTH_BYTES).getBigUint64(0, true);
  if (declared > BigInt(Math.min(MAX_HEADER_BYTES, file.length - LENGTH_BYTES))) {
    throw new SafetensorsError(`header length ${declared} must fit into the file (${file.length} bytes)`);
  }
  const dataStart = LENGTH_BYTES + Number(declared);
  const header = parseHeader(file.subarray(LENGTH_BYTES, dataStart));
  const data = file.subarray(dataStart);
  const tensors: TensorOutput[] = [];
  const ranges: { name: string; begin: number; end: number }[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") {
      metadata = checkMetadata(value);
      continue;
    }
    const { dtype, shape, begin, end } = checkEntry(name, value, data.length);
    ranges.push({ name, begin, end });
    tensors.push({ name, dtype, shape, bytes: data.subarray(begin, end) });
  }
  let expected = 0;
  for (const { name, begin, end } of ranges.sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== expected) {
      throw new SafetensorsError(`tensor ${name}: data_offsets must begin at ${expected}, not ${begin}`);
    }
    expected = end;
  }
  if (expected !== data.length) {
    throw new SafetensorsError(`tensors cover ${expected} bytes of data, the file has ${data.length}`);
  }
  return { tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])), metadata, data };
}

/** A copy with its own buffer: the bytes of a file need not be aligned. */
export function float32Values(tensor: TensorOutput): Float32Array {
  if (tensor.dtype !== "F32") {
    throw new SafetensorsError(`tensor ${tensor.name}: dtype must be F32, not ${tensor.dtype}`);
  }
  return new Float32Array(tensor.bytes.slice().buffer);
}

function parseHeader(bytes: Uint8Array): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new SafetensorsError(`the header must be JSON in UTF-8: ${(error as Error).message}`);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw new SafetensorsError("the header must be a JSON object");
  }
  return header as Record<string, unknown>;
}

function checkMetadata(value: unknown): Record<string, string> {
  const valid = typeof value === "object" && value !== null && !Array.isArray(value) &&
    Object.values(value).every((entry) => typeof entry === "string");
  if (!valid) throw new SafetensorsError("__metadata__ must map strings to strings");
  return value as Record<string, string>;
}

function checkEntry(
  name: string,
  value: unknown,
  dataLength: number,
): { dtype: string; shape: number[]; begin: number; end: number } {
  const entry = (value ?? {}) as { dtype?: unknown; shape?: unknown; data_offsets?: unknown };
  const { dtype, shape } = entry;
  if (typeof dtype !== "string" || !Object.hasOwn(DTYPE_BYTES, dtype)) {
    throw new SafetensorsError(`tensor ${name}: dtype ${JSON.stringify(dtype)} is not known`);
  }
  if (!Array.isArray(shape) || !shape.every(isSize)) {
    throw new SafetensorsError(`tensor ${name}: shape must be a list of sizes, not ${JSON.stringify(shape)}`);
  }
  const offsets = entry.data_offsets;
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
    throw new SafetensorsError(`tensor ${name}: data_offsets must be two sizes, not ${JSON.stringify(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > dataLength) {
    throw new SafetensorsError(`tensor ${name}: data_offsets [${begin}, ${end}] must lie within ${dataLength} bytes`);
  }
  const bytes = (shape as number[]).reduce((product, size) => product * size, DTYPE_BYTES[dtype]!);
  if (bytes !== end - begin) {
    throw new SafetensorsError(
      `tensor ${name}: ${dtype} [${shape}] needs ${bytes} bytes, data_offsets give ${end - begin}`,
    );
  }
  return { dtype, shape: shape as number[], begin, end };
}

function isSize(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** By code units, not by locale: the order must be the same on every machine. */
function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
