/** The process: its flags, its one printed key, its restart and its end. */

import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";

const main = new URL("./main.ts", import.meta.url).pathname;

interface Running {
  url: string;
  output: () => string;
  end: (signal: Deno.Signal) => Promise<Deno.CommandStatus>;
}

function command(args: string[], env: Record<string, string> = {}): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", main, ...args],
    env: { TLORA_ADMIN_KEY: "", ...env },
    stdout: "piped",
    stderr: "piped",
  });
}

async function start(folder: string, env: Record<string, string> = {}): Promise<Running> {
  const portFile = `${folder}/port`;
  await Deno.remove(portFile).catch(() => {});
  const child = command(["--data", `${folder}/data`, "--port-file", portFile], env).spawn();
  let text = "";
  const read = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const chunk of stream.pipeThrough(new TextDecoderStream())) text += chunk;
  };
  const reading = Promise.all([read(child.stdout), read(child.stderr)]);
  const ended = child.status.then((status) => {
    throw new Error(`the process ended with ${status.code}: ${text}`);
  });
  const port = async () => {
    for (;;) {
      const written = await Deno.readTextFile(portFile).catch(() => "");
      if (written !== "") return written.trim();
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  const url = `http://127.0.0.1:${await Promise.race([port(), ended])}`;
  ended.catch(() => {});
  // The last line of a start may still be on its way through the pipe.
  while (!text.includes("tLoRA serves")) await new Promise((resolve) => setTimeout(resolve, 10));
  return {
    url,
    output: () => text,
    end: async (signal) => {
      child.kill(signal);
      const status = await child.status;
      await reading;
      return status;
    },
  };
}

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function upload(url: string, key: string): Promise<Response> {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", new File(['{"text":"a"}'], "x.jsonl"));
  return await fetch(`${url}/v1/files`, { method: "POST", body: form, headers: { authorization: `Bearer ${key}` } });
}

Deno.test("the admin key is printed at the first start only, and what was stored survives kill -9", () =>
  withFolder(async (folder) => {
    const first = await start(folder);
    const key = /tlora-[A-Za-z0-9_-]{43}/.exec(first.output())?.[0] ?? "";
    ok(key, first.output());
    const { id } = await (await upload(first.url, key)).json();
    strictEqual((await first.end("SIGKILL")).signal, "SIGKILL");

    const second = await start(folder);
    const content = await fetch(`${second.url}/v1/files/${id}/content`, {
      headers: { authorization: `Bearer ${key}` },
    });
    strictEqual(await content.text(), '{"text":"a"}');
    ok(!second.output().includes("Admin key"), second.output());
    strictEqual((await second.end("SIGTERM")).code, 0);
    ok(!second.output().includes(key));
  }));

Deno.test("a preset admin key works and is never printed", () =>
  withFolder(async (folder) => {
    const key = "an-operator-chose-these-40-characters-ok";
    const process = await start(folder, { TLORA_ADMIN_KEY: key });
    const response = await upload(process.url, key);
    await response.body?.cancel();
    strictEqual(response.status, 200);
    const { code, stderr } = await command(["--data", `${folder}/data`]).output();
    strictEqual(code, 1);
    match(new TextDecoder().decode(stderr), /one process at a time/);
    strictEqual((await process.end("SIGINT")).code, 0);
    ok(!process.output().includes(key) && !process.output().includes("Admin key"), process.output());
  }));

Deno.test("wrong flags and too short a key end with 2 and say why", () =>
  withFolder(async (folder) => {
    const run = async (args: string[], env?: Record<string, string>) => {
      const { code, stderr } = await command(args, env).output();
      return { code, text: new TextDecoder().decode(stderr) };
    };
    const flag = await run(["--data", folder, "--port", "70000"]);
    deepStrictEqual(flag.code, 2);
    match(flag.text, /--port.*'70000'.*0 to 65535/);
    const key = await run(["--data", folder], { TLORA_ADMIN_KEY: "short" });
    deepStrictEqual(key.code, 2);
    match(key.text, /TLORA_ADMIN_KEY must have at least 32 characters.*got 5/);
    deepStrictEqual(await Array.fromAsync(Deno.readDir(folder)), []);
  }));
