/**
 * `deno task verify:faults [--rounds N] [--seed S]`: one line a round, exit 1 when a promise broke. The hosts' device comes from
 * TLORA_DEVICE (default cpu).
 */

import { parseArgs } from "node:util";
import { programArgs } from "../harness/args.ts";
import { campaign, type Round } from "./campaign.ts";

const { values } = parseArgs({
  args: programArgs(),
  options: { rounds: { type: "string", default: "20" }, seed: { type: "string", default: "1" } },
});
const count = Number(values.rounds);

export function describeRound(round: Round, of: number): string {
  const kills = round.kills.map((kill) =>
    `${kill.victim}@${kill.atSeconds.toFixed(1)}s${kill.hit ? "" : " (none ran)"}`
  );
  const verdict = round.problems.length === 0
    ? "6 jobs succeeded, hashes equal, steps once"
    : round.problems.join("; ");
  return `${String(round.index + 1).padStart(2)}/${of} kill -9 ${kills.join(", ")}: ${verdict} (${
    round.seconds.toFixed(1)
  } s)`;
}

const rounds = await campaign({
  rounds: count,
  seed: Number(values.seed),
  onRound: (round) => console.log(describeRound(round, count)),
});
const failed = rounds.filter((round) => round.problems.length > 0).length;
const hits = rounds.flatMap((round) => round.kills).filter((kill) => kill.hit).length;
console.log(`faults: ${hits} processes killed; ${rounds.length - failed} passed, ${failed} failed`);
Deno.exit(failed === 0 ? 0 : 1);
