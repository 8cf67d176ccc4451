/**
 * A family is a base and a span: groups of one family may take each other's members and merge. Families get numbers
 * when they are first asked for, so that heaps and lists can be arrays however large gangs are.
 */
import { i32At, setI32, takeI32 } from "./arena";
import * as L from "./layout";
import { baseCount } from "./profiles";

/** Most families: one per job, and one per span of any base. */
export let mostFamilies: i32 = 0;
let count: i32 = 0;
/** Per base: its first family; per family: the next of its base, and its span. */
let firsts: usize = 0;
let nexts: usize = 0;
let spans: usize = 0;

export function resetFamilies(): void {
  mostFamilies = L.jobCount << 1;
  count = 0;
  firsts = takeI32(baseCount() + 1);
  nexts = takeI32(mostFamilies);
  spans = takeI32(mostFamilies);
  for (let b = 0; b <= baseCount(); b++) setI32(firsts, b, -1);
}

export function familyOf(base: i32, span: i32): i32 {
  let last = -1;
  for (let f = i32At(firsts, base); f != -1; f = i32At(nexts, f)) {
    if (i32At(spans, f) == span) return f;
    last = f;
  }
  const family = count++;
  setI32(spans, family, span);
  setI32(nexts, family, -1);
  if (last == -1) setI32(firsts, base, family);
  else setI32(nexts, last, family);
  return family;
}

export function familyOfJob(job: i32): i32 {
  return familyOf(i32At(L.jobBase, job), i32At(L.jobGang, job));
}

/** All groups of a span, whatever their base. */
export function anyBase(span: i32): i32 {
  return familyOf(baseCount(), span);
}

export function familyCount(): i32 {
  return count;
}
