/** Snapshot to bytes and back. */
import {
  align8,
  ENTRY_BYTES,
  HEADER_BYTES,
  ITEM_ARRAY,
  ITEM_BYTES,
  LAYOUT_VERSION,
  LINK_SECTIONS,
  MAGIC,
  NOW_OFFSET,
  OPTIONS,
  OPTIONS_SECTION,
  optionsOf,
  type Section,
  SECTIONS,
  TABLES,
} from "./layout.ts";
import type { Snapshot } from "./types.ts";
import { columnOf, rowsOf, validateSnapshot } from "./validate.ts";

function sectionCount(snapshot: Snapshot): number {
  return SECTIONS.length + (snapshot.options ? 1 : 0) + (snapshot.links ? LINK_SECTIONS.length : 0);
}

/** Bytes of a valid snapshot. */
export function encodedBytes(snapshot: Snapshot): number {
  const rows = rowsOf(snapshot);
  let bytes = HEADER_BYTES + sectionCount(snapshot) * ENTRY_BYTES;
  if (snapshot.options) bytes += OPTIONS.length * ITEM_BYTES.f64;
  if (snapshot.links) bytes += LINK_SECTIONS.length * snapshot.profiles.base.length * ITEM_BYTES.f64;
  for (const { table, type } of SECTIONS) bytes += align8(rows[TABLES.indexOf(table)]! * ITEM_BYTES[type]);
  return bytes;
}

/** Where the columns of the jobs stand in the bytes of a valid snapshot. */
export function jobColumns(snapshot: Snapshot): { section: Section; offset: number }[] {
  const rows = rowsOf(snapshot);
  let offset = HEADER_BYTES + sectionCount(snapshot) * ENTRY_BYTES;
  return SECTIONS.map((section) => {
    const at = offset;
    offset += align8(rows[TABLES.indexOf(section.table)]! * ITEM_BYTES[section.type]);
    return { section, offset: at };
  }).filter(({ section }) => section.table === "jobs");
}

/** Writes a valid snapshot at `at`, a multiple of 8, of a buffer with room for it. */
export function encodeInto(snapshot: Snapshot, buffer: ArrayBuffer, at: number): void {
  const rows = rowsOf(snapshot);
  const bytes = encodedBytes(snapshot);
  const header = new Uint32Array(buffer, at, HEADER_BYTES / 4);
  header.fill(0);
  const sections = sectionCount(snapshot);
  header.set([MAGIC, LAYOUT_VERSION, bytes, sections, snapshot.policy, ...rows]);
  // Adding 0 turns -0 into 0: equal snapshots have equal bytes.
  new DataView(buffer, at).setFloat64(NOW_OFFSET, snapshot.now + 0, true);
  const entries = new Uint32Array(buffer, at + HEADER_BYTES, sections * ENTRY_BYTES / 4);
  let offset = HEADER_BYTES + sections * ENTRY_BYTES;
  SECTIONS.forEach((section, i) => {
    const count = rows[TABLES.indexOf(section.table)]!;
    const size = ITEM_BYTES[section.type];
    entries.set([section.id, size, count, offset], i * 4);
    new ITEM_ARRAY[section.type](buffer, at + offset, count).set(columnOf(snapshot, section));
    offset += align8(count * size);
  });
  let entry = SECTIONS.length;
  const append = (id: number, values: ArrayLike<number>) => {
    entries.set([id, ITEM_BYTES.f64, values.length, offset], entry++ * 4);
    new Float64Array(buffer, at + offset, values.length).set(Array.from(values, (value) => value + 0));
    offset += values.length * ITEM_BYTES.f64;
  };
  if (snapshot.options) {
    const values = optionsOf(snapshot);
    append(OPTIONS_SECTION, OPTIONS.map(({ name }) => values[name]));
  }
  if (snapshot.links) { for (const { id, field } of LINK_SECTIONS) append(id, snapshot.links[field]); }
}

export function encodeSnapshot(snapshot: Snapshot): Uint8Array<ArrayBuffer> {
  validateSnapshot(snapshot);
  const bytes = new Uint8Array(encodedBytes(snapshot));
  encodeInto(snapshot, bytes.buffer, 0);
  return bytes;
}

function wrong(where: string, rule: string, value: unknown): never {
  throw new RangeError(`snapshot bytes: ${where} must be ${rule}, got ${value}`);
}

/** The snapshot of encoded bytes; the arrays are copies. Sections of an unknown id are passed over. */
export function decodeSnapshot(input: Uint8Array): Snapshot {
  if (!(input instanceof Uint8Array)) wrong("input", "a Uint8Array", typeof input);
  // A copy of its own is aligned whatever the input's offset.
  const bytes = new Uint8Array(input);
  if (bytes.length < HEADER_BYTES) wrong("length", `at least ${HEADER_BYTES}`, bytes.length);
  const header = new Uint32Array(bytes.buffer, 0, HEADER_BYTES / 4);
  if (header[0] !== MAGIC) wrong("magic", `0x${MAGIC.toString(16)}`, `0x${header[0]!.toString(16)}`);
  if (header[1] !== LAYOUT_VERSION) wrong("version", `${LAYOUT_VERSION}`, header[1]);
  if (header[2] !== bytes.length) wrong("length", `${header[2]} as the header says`, bytes.length);
  const sections = header[3]!;
  if (HEADER_BYTES + sections * ENTRY_BYTES > bytes.length) wrong("section count", "inside the bytes", sections);
  const places = new Map<number, { size: number; count: number; offset: number }>();
  for (let i = 0; i < sections; i++) {
    const [id, size, count, offset] = new Uint32Array(bytes.buffer, HEADER_BYTES + i * ENTRY_BYTES, 4);
    places.set(id!, { size: size!, count: count!, offset: offset! });
  }
  const tables: Record<string, Record<string, unknown>> = Object.fromEntries(TABLES.map((name) => [name, {}]));
  for (const section of SECTIONS) {
    const name = `section ${section.table}.${section.field}`;
    const place = places.get(section.id);
    if (!place) wrong(name, "present", "nothing");
    const size = ITEM_BYTES[section.type];
    const rows = header[5 + TABLES.indexOf(section.table)]!;
    if (place.size !== size) wrong(`${name} item bytes`, `${size}`, place.size);
    if (place.count !== rows) wrong(`${name} items`, `${rows} as the header says`, place.count);
    if (place.offset % 8 !== 0) wrong(`${name} offset`, "a multiple of 8", place.offset);
    if (place.offset + place.count * size > bytes.length) wrong(`${name} offset`, "inside the bytes", place.offset);
    tables[section.table]![section.field] = new ITEM_ARRAY[section.type](bytes.buffer, place.offset, rows).slice();
  }
  const given = places.get(OPTIONS_SECTION);
  if (given) {
    const name = "section options";
    if (given.size !== ITEM_BYTES.f64) wrong(`${name} item bytes`, `${ITEM_BYTES.f64}`, given.size);
    if (given.count > OPTIONS.length) wrong(`${name} items`, `at most ${OPTIONS.length}`, given.count);
    if (given.offset % 8 !== 0) wrong(`${name} offset`, "a multiple of 8", given.offset);
    if (given.offset + given.count * 8 > bytes.length) wrong(`${name} offset`, "inside the bytes", given.offset);
    const values = new Float64Array(bytes.buffer, given.offset, given.count);
    tables.options = Object.fromEntries(OPTIONS.map(({ name, value }, i) => [name, values[i] ?? value]));
  }
  if (LINK_SECTIONS.some(({ id }) => places.has(id))) {
    tables.links = Object.fromEntries(LINK_SECTIONS.map(({ id, field }) => {
      const name = `section links.${field}`;
      const place = places.get(id) ?? wrong(name, "present where another one of links is", "nothing");
      if (place.size !== ITEM_BYTES.f64) wrong(`${name} item bytes`, `${ITEM_BYTES.f64}`, place.size);
      if (place.count !== header[5]) wrong(`${name} items`, `${header[5]} as the header says of profiles`, place.count);
      if (place.offset % 8 !== 0) wrong(`${name} offset`, "a multiple of 8", place.offset);
      if (place.offset + place.count * 8 > bytes.length) wrong(`${name} offset`, "inside the bytes", place.offset);
      return [field, new Float64Array(bytes.buffer, place.offset, place.count).slice()];
    }));
  }
  const snapshot = {
    policy: header[4],
    now: new DataView(bytes.buffer).getFloat64(NOW_OFFSET, true),
    ...tables,
  } as unknown as Snapshot;
  validateSnapshot(snapshot);
  return snapshot;
}
