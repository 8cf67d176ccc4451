import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { collectBlobs, gracePeriodMs } from "../blobs/collect.ts";
import { World } from "../testing/world.ts";
import { expireFiles } from "./expire.ts";

const line = '{"text":"a"}\n';

Deno.test("a blob lives as long as some row refers to it", async () => {
  await using world = await World.open();
  await world.registerHost();
  const { store } = world.plane;
  const clock = () => Date.parse("2100-01-01");
  const collect = () => collectBlobs({ blobs: world.blobs, refs: store.blobs, clock });

  const [first, second] = [await world.upload(line), await world.upload(line)];
  const blob = (await store.files.get("default", first))?.blob;
  ok(blob);
  strictEqual((await world.request("DELETE", `/v1/files/${first}`)).status, 200);
  strictEqual(await collect(), 0);
  strictEqual(await (await world.request("GET", `/v1/files/${second}/content`)).text(), line);

  const job = await world.createJob({ training_file: second });
  strictEqual((await world.request("DELETE", `/v1/files/${second}`)).status, 409);
  // An expiry does not ask about jobs: the job keeps the bytes.
  for (const file of (await store.files.list("default", { limit: 100 })).data) {
    await store.files.delete("default", file.id);
  }
  // The file that createJob uploads where it is given none.
  strictEqual(await collect(), 1);
  strictEqual(await world.blobs.exists(blob.sha256), true);

  strictEqual((await world.request("POST", `/v1/fine_tuning/jobs/${job}/cancel`)).status, 200);
  strictEqual(await collect(), 1);
  strictEqual(await world.blobs.exists(blob.sha256), false);
});

Deno.test("a blob that was put moments ago waits for its row", async () => {
  await using world = await World.open();
  const { sha256 } = await world.put("an upload whose row is not written yet");
  const [stored] = await Array.fromAsync(world.blobs.list());
  ok(stored);
  const at = (ms: number) => collectBlobs({ blobs: world.blobs, refs: world.plane.store.blobs, clock: () => ms });
  strictEqual(await at(stored.storedAt + gracePeriodMs), 0);
  strictEqual(await world.blobs.exists(sha256), true);
  strictEqual(await at(stored.storedAt + gracePeriodMs + 1), 1);
});

Deno.test("files expire, also those of other tenants, and nothing else does", async () => {
  await using world = await World.open();
  const keys = ["team-a", "team-b"];
  const kept: string[] = [];
  for (const tenant of keys) {
    const key = await world.key("tenant", tenant);
    kept.push(await world.upload(line, key));
    const form = new FormData();
    form.append("file", new File([line], "short.jsonl"));
    form.append("purpose", "fine-tune");
    form.append("expires_after[anchor]", "created_at");
    form.append("expires_after[seconds]", "3600");
    strictEqual((await world.request("POST", "/v1/files", form, { authorization: `Bearer ${key}` })).status, 200);
  }
  const { store } = world.plane;
  const expire = () => expireFiles({ store, clock: store.clock });
  world.advance(3600_000 - 1);
  strictEqual(await expire(), 0);
  world.advance(1);
  strictEqual(await expire(), 2);
  const left = await Promise.all(keys.map((tenant) => store.files.list(tenant, { limit: 10 })));
  deepStrictEqual(left.flatMap((page) => page.data.map((file) => file.id)), kept);
});

Deno.test("downloads can be conditional", async () => {
  await using world = await World.open();
  const path = `/v1/files/${await world.upload(line)}/content`;
  const whole = await world.request("GET", path);
  strictEqual(await whole.text(), line);
  const etag = whole.headers.get("etag") ?? "";
  const same = await world.request("GET", path, null, { "if-none-match": etag });
  deepStrictEqual([same.status, await same.text()], [304, ""]);
  const ranged = async (condition: string) => {
    const response = await world.request("GET", path, null, { range: "bytes=-3", "if-range": condition });
    return [response.status, await response.text()];
  };
  deepStrictEqual(await ranged(etag), [206, line.slice(-3)]);
  deepStrictEqual(await ranged('"another"'), [200, line]);
});

Deno.test("an upload that the client breaks off leaves nothing", async () => {
  await using world = await World.open();
  const head = '--B\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n' + line.repeat(1000);
  let sent = false;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (sent) controller.error(new Error("connection reset"));
      else controller.enqueue(new TextEncoder().encode(head));
      sent = true;
    },
  });
  const response = await world.request("POST", "/v1/files", body, {
    "content-type": "multipart/form-data; boundary=B",
  });
  deepStrictEqual([response.status, (await response.json()).error.code], [400, "upload_interrupted"]);
  deepStrictEqual(await Array.fromAsync(world.blobs.list()), []);
  deepStrictEqual((await Array.fromAsync(Deno.readDir(`${world.folder}/tmp`))).length, 0);
});
