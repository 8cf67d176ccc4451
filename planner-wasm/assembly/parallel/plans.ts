/** Every product data x shards x tensor x pipeline of a divisor of the devices, ranked. */
import { f64At, setF64, setI32, takeF64, takeI32 } from "../arena";
import { sortIndices } from "../sort";
import { evaluate } from "./evaluate";
import * as Q from "./request";
import * as R from "./row";

/** Visits the candidates in the order that decides ties: few devices, then few stages, tensor parts and shards. */
function walk(rows: usize): i32 {
  let count = 0;
  for (let devices = Q.exactDevices ? Q.devices : 1; devices <= Q.devices; devices++) {
    if (Q.devices % devices != 0) continue;
    for (let stages = 1; stages <= min(devices, Q.mostPipeline); stages++) {
      if (devices % stages != 0) continue;
      const perStage = devices / stages;
      for (let tensor = 1; tensor <= min(perStage, Q.mostTensor); tensor++) {
        if (perStage % tensor != 0) continue;
        const ranks = perStage / tensor;
        for (let shards = 1; shards <= min(ranks, Q.mostShards); shards++) {
          if (ranks % shards != 0 || ranks / shards > Q.mostData) continue;
          if (rows != 0) evaluate(R.rowAt(rows, count), ranks / shards, shards, tensor, stages);
          count++;
        }
      }
    }
  }
  return count;
}

function above(degree: f64): f64 {
  return degree > 1 ? 1 : 0;
}

/** i32 x 4: candidates, fields of each, address of the rows, address of their ranking (i32). */
export function writePlans(): usize {
  const count = walk(0);
  const rows = takeF64(count * R.ROW_FIELDS);
  walk(rows);
  const order = takeI32(count);
  const keys = takeF64(count);
  const ties = takeF64(count);
  for (let i = 0; i < count; i++) {
    const row = R.rowAt(rows, i);
    setI32(order, i, i);
    setF64(keys, i, f64At(row, R.REFUSAL) == 0 ? f64At(row, R.SECONDS) : Infinity);
    const kinds = above(f64At(row, R.DATA)) + above(f64At(row, R.SHARDS)) + above(f64At(row, R.TENSOR)) +
      above(f64At(row, R.PIPELINE));
    setF64(ties, i, f64At(row, R.DEVICES) * 5 + kinds);
  }
  sortIndices(order, count, keys, ties);
  const header = takeI32(4);
  setI32(header, 0, count);
  setI32(header, 1, R.ROW_FIELDS);
  setI32(header, 2, <i32>rows);
  setI32(header, 3, <i32>order);
  return header;
}
