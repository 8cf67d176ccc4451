/** Requests per second of the real API process on a real database file, and how long they take. */

import { Service } from "../../harness/service.ts";
import { type LoopResult, loops } from "../closed_loop.ts";
import type { BenchContext, SectionBench } from "../context.ts";
import { BENCH_MODEL, PlayedHost } from "../played_host.ts";
import type { Row } from "../schema.ts";

const CALLERS = 16;
const HOSTS = 8;
const STEPS = 16;
const KIB = 1024;

export const api: SectionBench = {
  id: "api",
  async measure({ quick, rounds, say }: BenchContext) {
    const folder = await Deno.makeTempDir({ prefix: "tlora-bench-" });
    const service = await Service.start({ folder });
    const rows: Row[] = [];
    const seconds = quick ? 0.5 : 1.5;
    const add = (id: string, line: string, results: readonly LoopResult[]) => {
      const column = (
        name: string,
        unit: string,
        better: Row["better"],
        pick: (result: LoopResult) => number,
      ): Row => ({
        id: `${id} ${name}`,
        table: "Requests",
        line,
        column: unit === "" ? name : `${name}, ${unit}`,
        unit,
        better,
        kind: "measured",
        samples: results.map(pick),
      });
      rows.push(
        column("requests/s", "", "higher", (result) => result.perSecond),
        column("p50", "ms", "lower", (result) => result.p50),
        column("p99", "ms", "lower", (result) => result.p99),
      );
    };
    const run = async (id: string, line: string, call: (caller: number) => Promise<void>, most?: number) => {
      say(line);
      const options = { callers: CALLERS, seconds, call, ...(most === undefined ? {} : { most }) };
      add(id, line, await loops(rounds, options));
    };
    let stopped = false;
    try {
      const { secret } = await service.request<{ secret: string }>("POST", "/v1/admin/keys", {
        name: "bench",
        scope: "host",
      });
      const headers = { authorization: `Bearer ${service.adminKey}` };
      const get = (path: string) => answered(fetch(`${service.url}${path}`, { headers }));
      const upload = async (bytes: number): Promise<string> => {
        const form = new FormData();
        form.append("purpose", "fine-tune");
        form.append("file", new File([jsonLines(bytes)], "train.jsonl"));
        const body = await answered(fetch(`${service.url}/v1/files`, { method: "POST", headers, body: form }));
        return (JSON.parse(body) as { id: string }).id;
      };
      const hosts = await Promise.all(
        Array.from({ length: HOSTS }, (_, i) => PlayedHost.register(service.url, secret, `bench-${i}`)),
      );
      const file = await upload(4 * KIB);
      const create = async (): Promise<string> => {
        const body = JSON.stringify({
          model: BENCH_MODEL,
          training_file: file,
          training: { batch_size: 8, max_length: 512 },
        });
        const request = { method: "POST", headers: { ...headers, "content-type": "application/json" }, body };
        return (JSON.parse(await answered(fetch(`${service.url}/v1/fine_tuning/jobs`, request))) as { id: string }).id;
      };

      await run("health", "GET /healthz", async () => void await get("/healthz"));
      await run("upload small", "upload of 4 KiB, lines checked", async () => void await upload(4 * KIB));
      await run(
        "upload large",
        "upload of 4 MiB, lines checked",
        async () => void await upload(4 * KIB * KIB),
        quick ? 16 : 48,
      );

      say("hosts take jobs");
      const jobs = await Promise.all(Array.from({ length: HOSTS }, create));
      await Promise.all(hosts.map((host) => host.takeJob()));
      // A lease is 30 s: the hosts stay alive while other things are measured.
      const alive = (async () => {
        while (!stopped) {
          await Promise.all(hosts.map((host) => host.heartbeat()));
          await new Promise((resolve) => setTimeout(resolve, 3000));
        }
      })();
      say("sync of hosts");
      const one = { callers: HOSTS, seconds };
      add(
        "sync idle",
        `host sync, nothing new (${HOSTS} hosts)`,
        await loops(rounds, { ...one, call: (caller) => hosts[caller]!.heartbeat() }),
      );
      add(
        "sync steps",
        `host sync with a report of ${STEPS} steps (${HOSTS} hosts)`,
        await loops(rounds, { ...one, call: (caller) => hosts[caller]!.reportSteps(STEPS) }),
      );
      await run(
        "get job",
        "GET a job",
        async (caller) => void await get(`/v1/fine_tuning/jobs/${jobs[caller % HOSTS]}`),
      );
      await run(
        "create job",
        "create a job, the scheduler plans it",
        async () => void await create(),
        quick ? 50 : 200,
      );
      await run("list jobs", "list 20 jobs", async () => void await get("/v1/fine_tuning/jobs?limit=20"));
      stopped = true;
      await alive;
    } finally {
      stopped = true;
      await service.stop();
      await Deno.remove(folder, { recursive: true });
    }
    return {
      id: "api",
      title: "API",
      about:
        `The API process with its own database file and blob folder; ${CALLERS} callers (hosts: ${HOSTS}) that call again as soon ` +
        `as they are answered, for ${seconds} s per repetition. Callers and server share the machine's cores, so a server with cores ` +
        "of its own gives more. Every answer is checked. The hosts are played: they train nothing.",
      rows,
      charts: [],
    };
  },
};

async function answered(response: Promise<Response>): Promise<string> {
  const { ok, status, url, text } = await response.then(async (r) => ({
    ok: r.ok,
    status: r.status,
    url: r.url,
    text: await r.text(),
  }));
  if (!ok) throw new Error(`${url} answered ${status}: ${text}`);
  return text;
}

/** A training file of about so many bytes. */
function jsonLines(bytes: number): string {
  const line = JSON.stringify({ prompt: "x".repeat(200), completion: "y".repeat(200) }) + "\n";
  return line.repeat(Math.max(1, Math.round(bytes / line.length)));
}
