/** Many byte strings in one: u32 count, then per item u32 length and the bytes. */

export function packed(items: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(4 + items.reduce((sum, item) => sum + 4 + item.length, 0));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, items.length, true);
  let at = 4;
  for (const item of items) {
    view.setUint32(at, item.length, true);
    bytes.set(item, at + 4);
    at += 4 + item.length;
  }
  return bytes;
}

/** The items as views of `pack`, in order. */
export function* unpacked(pack: Uint8Array): Generator<Uint8Array> {
  const view = new DataView(pack.buffer, pack.byteOffset, pack.byteLength);
  const count = view.getUint32(0, true);
  let at = 4;
  for (let i = 0; i < count; i++) {
    const length = view.getUint32(at, true);
    if (at + 4 + length > pack.length) throw new RangeError(`pack: item ${i} must end inside the bytes, has ${length}`);
    yield pack.subarray(at + 4, at + 4 + length);
    at += 4 + length;
  }
}
