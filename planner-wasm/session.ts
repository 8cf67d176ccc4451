/** A PlannerSession over an instance of its own: the state of the last plan stays in the module's memory. */
import { jobColumns } from "./codec.ts";
import { ITEM_ARRAY, MOST_ROWS } from "./layout.ts";
import { checked, place, type PlannerExports, readPlan } from "./planner.ts";
import { type Changes, type Jobs, type PlannerSession, Policy, type Snapshot } from "./types.ts";
import { validateArrivals, validateSnapshot } from "./validate.ts";

function wrong(where: string, rule: string, value: unknown): never {
  throw new RangeError(`${where} must be ${rule}, got ${value}`);
}

/** The jobs with empty rows behind them. */
function withRoom(jobs: Jobs, rows: number): Jobs {
  return Object.fromEntries(
    Object.entries(jobs).map(([field, column]) => {
      const longer = new (column.constructor as Float64ArrayConstructor)(rows);
      longer.set(column as Float64Array);
      return [field, longer];
    }),
  ) as unknown as Jobs;
}

export function openSession(module: WebAssembly.Module, snapshot: Snapshot, room: number): PlannerSession {
  validateSnapshot(snapshot);
  if (snapshot.policy !== Policy.default) wrong("policy", `${Policy.default} in a session`, snapshot.policy);
  const present = snapshot.jobs.base.length;
  const most = present + room;
  if (!Number.isInteger(room) || room < 0 || most > MOST_ROWS) {
    wrong("room", `an integer from 0 to ${MOST_ROWS - present}`, room);
  }
  const exports = new WebAssembly.Instance(module).exports as unknown as PlannerExports;
  const padded = { ...snapshot, jobs: withRoom(snapshot.jobs, most) };
  const { at, bytes } = place(exports, padded);
  checked(exports.open(at, bytes, present));
  const columns = jobColumns(padded);
  const devices = snapshot.devices.kind.length;
  const gone = new Set<number>();
  let rows = present;
  let now = snapshot.now;

  function check(changes: Changes): void {
    const ending = new Set<number>();
    for (const row of changes.finished ?? []) {
      if (!Number.isInteger(row) || row < 0 || row >= rows) wrong("finished", `rows below ${rows}`, row);
      if (gone.has(row) || ending.has(row)) wrong("finished", "rows that were not finished before", row);
      ending.add(row);
    }
    for (const { device, available } of changes.devices ?? []) {
      if (!Number.isInteger(device) || device < 0 || device >= devices) {
        wrong("devices.device", `a device below ${devices}`, device);
      }
      if (available !== 0 && available !== 1) wrong("devices.available", "0 or 1", available);
    }
    if (changes.now !== undefined && !(Math.abs(changes.now) <= 2 ** 53)) {
      wrong("now", `a finite number from ${-(2 ** 53)} to ${2 ** 53}`, changes.now);
    }
    if (!changes.arrived) return;
    validateArrivals(snapshot, changes.arrived);
    const more = changes.arrived.base.length;
    if (more > most - rows) wrong("arrived", `at most ${most - rows} jobs, the room that is left`, more);
  }

  const plan = () => readPlan(exports, exports.read(), rows);
  return {
    get rows() {
      return rows;
    },
    get room() {
      return most - rows;
    },
    plan,
    update(changes) {
      check(changes);
      now = changes.now ?? now;
      for (const row of changes.finished ?? []) {
        gone.add(row);
        exports.finished(row);
      }
      for (const { device, available } of changes.devices ?? []) exports.deviceChanged(device, available);
      const { arrived } = changes;
      if (!arrived) return plan();
      for (const { section, offset } of columns) {
        const column = new ITEM_ARRAY[section.type](exports.memory.buffer, at + offset, most);
        column.set(arrived[section.field as keyof Jobs] as Float64Array, rows);
      }
      for (let j = 0; j < arrived.base.length; j++) exports.arrived(rows++, now);
      return plan();
    },
  };
}
