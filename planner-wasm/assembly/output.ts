/** The plan in memory, right after a header that says how many groups there are. Groups by first device. */
import { i32At, setF64, setI32, takeF64, takeI32 } from "./arena";
import { groupAt, groupMemory, groupSeconds, headOf, jobHead, jobReason } from "./groups";
import * as L from "./layout";
import { aloneSeconds } from "./work";

const NANO_BATCHES: i32 = 1;

/** i32 × 10: groups, then the address of each of the nine arrays in the order of ../types.ts. */
export function writePlan(): usize {
  let groups = 0;
  const numbers = takeI32(L.deviceCount);
  for (let v = 0; v < L.deviceCount; v++) {
    if (headOf(v) == v) setI32(numbers, v, groups++);
  }
  const group = takeI32(L.jobCount);
  const slowdown = takeF64(L.jobCount);
  const bases = takeI32(groups);
  const devices = takeI32(groups);
  const spans = takeI32(groups);
  const nano = takeI32(groups);
  const seconds = takeF64(groups);
  const memory = takeF64(groups);
  for (let v = 0; v < L.deviceCount; v++) {
    if (headOf(v) != v) continue;
    const g = i32At(numbers, v);
    const record = groupAt(v);
    setI32(bases, g, record.base);
    setI32(devices, g, v);
    setI32(spans, g, record.span);
    setI32(nano, g, NANO_BATCHES);
    setF64(seconds, g, groupSeconds(record));
    setF64(memory, g, groupMemory(record));
  }
  for (let j = 0; j < L.jobCount; j++) {
    const head = i32At(jobHead, j);
    if (head == -1) {
      setI32(group, j, -1);
      continue;
    }
    const record = groupAt(head);
    setI32(group, j, i32At(numbers, head));
    setF64(slowdown, j, groupSeconds(record) / aloneSeconds(j, record.profile));
  }
  const header = takeI32(10);
  setI32(header, 0, groups);
  setI32(header, 1, <i32>group);
  setI32(header, 2, <i32>jobReason);
  setI32(header, 3, <i32>slowdown);
  setI32(header, 4, <i32>bases);
  setI32(header, 5, <i32>devices);
  setI32(header, 6, <i32>spans);
  setI32(header, 7, <i32>nano);
  setI32(header, 8, <i32>seconds);
  setI32(header, 9, <i32>memory);
  return header;
}
