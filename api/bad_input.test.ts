/** What clients get wrong: each row is answered with its status, code and param, and a message that names field, rule and value. */

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { defaultLimits } from "./limits.ts";
import { adminKey, baseModel, World } from "./testing/world.ts";

interface Context {
  world: World;
  /** A chat file, a text file and a preference file of tenant default. */
  chat: string;
  text: string;
  preference: string;
  result: string;
  job: string;
  hostKey: string;
  tenantKey: string;
  revokedKey: string;
}

type Send = (context: Context) => Promise<Response>;

interface Row {
  name: string;
  send: Send;
  status: number;
  code: string | null;
  param: string | null;
  /** Parts of the message: the field, the rule, the value. */
  words: (string | RegExp)[];
}

const path = "/v1/fine_tuning/jobs";

/** A create request with one thing wrong. */
const create =
  (fields: Record<string, unknown> | ((context: Context) => Record<string, unknown>)): Send => (context) => {
    const { world, text } = context;
    const body = {
      model: baseModel,
      training_file: text,
      ...(typeof fields === "function" ? fields(context) : fields),
    };
    return world.request("POST", path, body);
  };

const raw =
  (body: string | Uint8Array, headers: HeadersInit = { "content-type": "application/json" }): Send => ({ world }) =>
    world.request("POST", path, body, headers);

const withAuth = (authorization: string | ((context: Context) => string)): Send => (context) =>
  context.world.request("GET", "/v1/files", null, {
    authorization: typeof authorization === "string" ? authorization : authorization(context),
  });

/** A form of fields and, where given, a file. */
const form = (fields: Record<string, string>, file?: { content: string; name?: string }, fileFirst = false): Send =>
(
  { world },
) => {
  const data = new FormData();
  const addFile = () => file && data.append("file", new File([file.content], file.name ?? "x.jsonl"));
  if (fileFirst) addFile();
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  if (!fileFirst) addFile();
  return world.request("POST", "/v1/files", data);
};

const good = { content: '{"text":"a"}\n' };
const purpose = { purpose: "fine-tune" };
const badFile = (name: string, content: string, ...words: string[]): Row => ({
  name: `upload: ${name}`,
  send: form(purpose, { content }),
  status: 400,
  code: "invalid_training_file",
  param: "file",
  words,
});
const badField = (
  name: string,
  fields: Record<string, unknown>,
  param: string,
  words: (string | RegExp)[],
  code = "invalid_value",
): Row => ({
  name: `create: ${name}`,
  send: create(fields),
  status: 400,
  code,
  param,
  words,
});

const rows: Row[] = [
  // Keys
  {
    name: "auth: no header",
    send: ({ world }) => Promise.resolve(world.plane.app.request("/v1/files")),
    status: 401,
    code: "missing_api_key",
    param: null,
    words: ["Authorization", "Bearer"],
  },
  {
    name: "auth: another scheme",
    send: withAuth("Basic dXNlcjpwYXNz"),
    status: 401,
    code: "invalid_api_key",
    param: null,
    words: ["Authorization", "Bearer"],
  },
  {
    name: "auth: a key without scheme",
    send: withAuth(adminKey),
    status: 401,
    code: "invalid_api_key",
    param: null,
    words: ["Authorization"],
  },
  {
    name: "auth: an unknown key",
    send: withAuth("Bearer tlora-unknown-key-of-some-length"),
    status: 401,
    code: "invalid_api_key",
    param: null,
    words: ["Incorrect API key", "tlora-unkn…"],
  },
  {
    name: "auth: a revoked key",
    send: withAuth((context) => `Bearer ${context.revokedKey}`),
    status: 401,
    code: "invalid_api_key",
    param: null,
    words: ["not revoked"],
  },
  {
    name: "auth: a host key on a tenant's route",
    send: withAuth((context) => `Bearer ${context.hostKey}`),
    status: 403,
    code: "insufficient_scope",
    param: null,
    words: ["'tenant'", "'host'"],
  },
  {
    name: "auth: a tenant key on an admin route",
    send: ({ world, tenantKey }) =>
      world.request("GET", "/v1/admin/tenants", null, { authorization: `Bearer ${tenantKey}` }),
    status: 403,
    code: "insufficient_scope",
    param: null,
    words: ["'admin'", "'tenant'"],
  },
  {
    name: "auth: a tenant key on a host route",
    send: ({ world, tenantKey }) =>
      world.request("POST", "/v1/hosts/register", {}, { authorization: `Bearer ${tenantKey}` }),
    status: 403,
    code: "insufficient_scope",
    param: null,
    words: ["'host'", "'tenant'"],
  },
  {
    name: "auth: an admin key on a host route",
    send: ({ world }) => world.request("POST", "/v1/hosts/register", {}),
    status: 403,
    code: "insufficient_scope",
    param: null,
    words: ["'host'", "'admin'"],
  },
  {
    name: "unknown route",
    send: ({ world }) => world.request("GET", "/v1/assistants"),
    status: 404,
    code: "unknown_route",
    param: null,
    words: ["GET /v1/assistants"],
  },
  {
    name: "unknown method",
    send: ({ world }) => world.request("PUT", path, {}),
    status: 404,
    code: "unknown_route",
    param: null,
    words: ["PUT /v1/fine_tuning/jobs"],
  },

  // Uploads
  {
    name: "upload: JSON instead of a form",
    send: ({ world }) => world.request("POST", "/v1/files", { file: "x" }),
    status: 400,
    code: "invalid_content_type",
    param: null,
    words: ["content-type", "multipart/form-data", "application/json"],
  },
  {
    name: "upload: a form without boundary",
    send: ({ world }) => world.request("POST", "/v1/files", "x", { "content-type": "multipart/form-data" }),
    status: 400,
    code: "invalid_content_type",
    param: null,
    words: ["boundary"],
  },
  {
    name: "upload: nothing",
    send: ({ world }) =>
      world.request("POST", "/v1/files", null, { "content-type": "multipart/form-data; boundary=B" }),
    status: 400,
    code: "empty_body",
    param: null,
    words: ["0 bytes"],
  },
  {
    name: "upload: an unfinished form",
    send: ({ world }) =>
      world.request("POST", "/v1/files", '--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tu', {
        "content-type": "multipart/form-data; boundary=B",
      }),
    status: 400,
    code: "invalid_multipart",
    param: null,
    words: ["closing delimiter"],
  },
  {
    name: "upload: no file",
    send: form(purpose),
    status: 400,
    code: "missing_required_parameter",
    param: "file",
    words: ["'file'"],
  },
  {
    name: "upload: the file as text",
    send: form({ ...purpose, file: "x" }),
    status: 400,
    code: "invalid_value",
    param: "file",
    words: ["'file'", "filename"],
  },
  {
    name: "upload: no purpose",
    send: form({}, good),
    status: 400,
    code: "missing_required_parameter",
    param: "purpose",
    words: ["'purpose'"],
  },
  {
    name: "upload: another purpose, before the file",
    send: form({ purpose: "assistants" }, good),
    status: 400,
    code: "invalid_value",
    param: "purpose",
    words: ["'purpose'", "'fine-tune'", "assistants"],
  },
  {
    name: "upload: another purpose, after the file",
    send: form({ purpose: "batch" }, good, true),
    status: 400,
    code: "invalid_value",
    param: "purpose",
    words: ["'purpose'", "'fine-tune'", "batch"],
  },
  {
    name: "upload: an unknown field",
    send: form({ ...purpose, colour: "red" }, good),
    status: 400,
    code: "unknown_parameter",
    param: "colour",
    words: ["colour"],
  },
  {
    name: "upload: expiry without anchor",
    send: form({ ...purpose, "expires_after[seconds]": "3600" }, good),
    status: 400,
    code: "invalid_value",
    param: "expires_after[anchor]",
    words: ["'created_at'", "nothing"],
  },
  {
    name: "upload: too short an expiry",
    send: form({ ...purpose, "expires_after[anchor]": "created_at", "expires_after[seconds]": "60" }, good),
    status: 400,
    code: "invalid_value",
    param: "expires_after[seconds]",
    words: ["3600 to 2592000", '"60"'],
  },
  {
    name: "upload: too large",
    send: form(purpose, { content: '{"text":"0123456789"}\n'.repeat(5000) }),
    status: 413,
    code: "file_too_large",
    param: "file",
    words: ["'file'", "at most 65536 bytes"],
  },
  badFile("an empty file", "", "at least one example"),
  badFile("not JSON", "hello\n", "line 1:", "must be JSON", "hello"),
  badFile(
    "an unknown role",
    '{"messages":[{"role":"bot","content":"x"}]}',
    "line 1:",
    "'messages[0].role'",
    "must be one of",
    '"bot"',
  ),
  badFile("an unknown format", '{"question":"x"}', "line 1:", "'messages'", "question"),
  badFile("two formats", '{"text":"a"}\n{"prompt":"a","completion":"b"}', "line 2:", "format 'text'", "completion"),
  badFile("a line beyond the limit", `{"text":"${"x".repeat(5000)}"}`, "line 1:", "at most 4096 bytes"),
  {
    name: "content: a range beyond the end",
    send: ({ world, text }) => world.request("GET", `/v1/files/${text}/content`, null, { range: "bytes=1000-" }),
    status: 416,
    code: "range_not_satisfiable",
    param: "range",
    words: ["bytes=1000-", "13 bytes"],
  },
  {
    name: "files: an unknown id",
    send: ({ world }) => world.request("GET", "/v1/files/file-nope"),
    status: 404,
    code: "not_found",
    param: "file_id",
    words: ["'file-nope'"],
  },
  {
    name: "files: limit 0",
    send: ({ world }) => world.request("GET", "/v1/files?limit=0"),
    status: 400,
    code: "invalid_value",
    param: "limit",
    words: ["'limit'", ">=1", '"0"'],
  },
  {
    name: "files: limit in words",
    send: ({ world }) => world.request("GET", "/v1/files?limit=ten"),
    status: 400,
    code: "invalid_type",
    param: "limit",
    words: ["'limit'", "number", '"ten"'],
  },
  {
    name: "files: unknown order",
    send: ({ world }) => world.request("GET", "/v1/files?order=up"),
    status: 400,
    code: "invalid_value",
    param: "order",
    words: ["'order'", /asc.*desc/, '"up"'],
  },
  {
    name: "files: in use by a job",
    send: async ({ world, chat }) => {
      await world.request("POST", path, { model: baseModel, training_file: chat });
      return await world.request("DELETE", `/v1/files/${chat}`);
    },
    status: 409,
    code: "file_in_use",
    param: "file_id",
    words: ["must not be deleted", "ftjob-"],
  },

  // Bodies
  {
    name: "create: no content type",
    send: ({ world }) => world.request("POST", path, new TextEncoder().encode("{}")),
    status: 400,
    code: "invalid_content_type",
    param: null,
    words: ["application/json", "nothing"],
  },
  {
    name: "create: a form",
    send: raw("a=b", { "content-type": "application/x-www-form-urlencoded" }),
    status: 400,
    code: "invalid_content_type",
    param: null,
    words: ["application/json", "urlencoded"],
  },
  { name: "create: an empty body", send: raw(""), status: 400, code: "empty_body", param: null, words: ["0 bytes"] },
  {
    name: "create: malformed JSON",
    send: raw('{"model": '),
    status: 400,
    code: "invalid_json",
    param: null,
    words: ["must be JSON", "model"],
  },
  {
    name: "create: not UTF-8",
    send: raw(Uint8Array.of(0x22, 0xff, 0x22)),
    status: 400,
    code: "invalid_json",
    param: null,
    words: ["UTF-8"],
  },
  { name: "create: a list", send: raw("[]"), status: 400, code: "invalid_type", param: null, words: ["object", "[]"] },
  {
    name: "create: too large a body",
    send: raw(`{"model":"${"x".repeat(20_000)}"}`),
    status: 413,
    code: "body_too_large",
    param: null,
    words: ["at most 16384 bytes"],
  },

  // Fields of a job
  {
    name: "create: no model",
    send: create({ model: undefined }),
    status: 400,
    code: "missing_required_parameter",
    param: "model",
    words: ["'model'"],
  },
  {
    name: "create: no training file",
    send: create({ training_file: undefined }),
    status: 400,
    code: "missing_required_parameter",
    param: "training_file",
    words: ["'training_file'"],
  },
  badField("a model of a number", { model: 5 }, "model", ["'model'", "string", "5"], "invalid_type"),
  {
    name: "create: an unknown model",
    send: create({ model: "gpt-4o" }),
    status: 404,
    code: "model_not_found",
    param: "model",
    words: ["'model'", baseModel, "'gpt-4o'"],
  },
  badField(
    "a fine-tuned model",
    { model: "ft:org/base:default::x" },
    "model",
    ["'model'", "base model", "ft:org/base"],
    "unsupported_model",
  ),
  {
    name: "create: an unknown training file",
    send: create({ training_file: "file-nope" }),
    status: 404,
    code: "file_not_found",
    param: "training_file",
    words: ["'file-nope'"],
  },
  {
    name: "create: an unknown validation file",
    send: create({ validation_file: "file-nope" }),
    status: 404,
    code: "file_not_found",
    param: "validation_file",
    words: ["'file-nope'"],
  },
  {
    name: "create: a validation file of another format",
    send: create(({ chat }) => ({ validation_file: chat })),
    status: 400,
    code: "invalid_value",
    param: "validation_file",
    words: ["'validation_file'", "'text'", "'chat'"],
  },
  {
    name: "create: a result file to train on",
    send: create(({ result }) => ({ training_file: result })),
    status: 400,
    code: "invalid_value",
    param: "training_file",
    words: ["'training_file'", "'fine-tune'", "'fine-tune-results'"],
  },
  {
    name: "create: preferences to train on",
    send: create(({ preference }) => ({ training_file: preference })),
    status: 400,
    code: "unsupported_format",
    param: "training_file",
    words: ["'training_file'", "not supported", "preference"],
  },
  badField("a misspelt field", { modle: "x" }, "modle", ["'modle'"], "unknown_parameter"),
  badField("a misspelt field within", { lora: { rank: 8 } }, "lora.rank", ["'lora.rank'"], "unknown_parameter"),
  badField("an empty suffix", { suffix: "" }, "suffix", ["'suffix'", ">=1", '""']),
  badField("too long a suffix", { suffix: "x".repeat(65) }, "suffix", ["'suffix'", "<=64", "xxx"]),
  badField("a suffix with a colon", { suffix: "a:b" }, "suffix", ["'suffix'", "letters, digits", '"a:b"']),
  badField("a negative seed", { seed: -1 }, "seed", ["'seed'", ">=0", "-1"]),
  badField("a fractional seed", { seed: 1.5 }, "seed", ["'seed'", "int", "1.5"], "invalid_type"),
  badField(
    "too many metadata",
    { metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, "v"])) },
    "metadata",
    ["'metadata'", "at most 16 pairs", "k0"],
  ),
  badField(
    "metadata of a number",
    { metadata: { k: 1 } },
    "metadata.k",
    ["'metadata.k'", "string", "1"],
    "invalid_type",
  ),
  badField("too long a metadata value", { metadata: { k: "v".repeat(513) } }, "metadata.k", ["'metadata.k'", "<=512"]),
  badField("an integration", { integrations: [{ type: "wandb" }] }, "integrations", [
    "'integrations'",
    "must be empty",
    "wandb",
  ]),
  badField(
    "DPO",
    { method: { type: "dpo" } },
    "method.type",
    ["'method.type'", "'supervised'", "'dpo'"],
    "unsupported_method",
  ),
  badField("an unknown method", { method: { type: "magic" } }, "method.type", [
    "'method.type'",
    "supervised",
    '"magic"',
  ]),
  badField("DPO beside supervised", { method: { type: "supervised", dpo: {} } }, "method.dpo", [
    "'method.dpo'",
    "must be absent",
  ]),
  badField("0 epochs", { hyperparameters: { n_epochs: 0 } }, "hyperparameters.n_epochs", [
    "'hyperparameters.n_epochs'",
    ">=1",
    "0",
  ]),
  badField(
    "51 epochs",
    { method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 51 } } } },
    "method.supervised.hyperparameters.n_epochs",
    ["<=50", "51"],
  ),
  badField("epochs in words", { hyperparameters: { n_epochs: "many" } }, "hyperparameters.n_epochs", [
    '"auto" or an integer',
    '"many"',
  ]),
  badField("half a batch", { hyperparameters: { batch_size: 0.5 } }, "hyperparameters.batch_size", [
    "an integer from 1 to 256",
    "0.5",
  ]),
  badField(
    "a multiplier of 0",
    { hyperparameters: { learning_rate_multiplier: 0 } },
    "hyperparameters.learning_rate_multiplier",
    [">0", "0"],
  ),
  badField("rank 0", { lora: { r: 0 } }, "lora.r", ["'lora.r'", ">=1", "0"]),
  badField("rank 257", { lora: { r: 257 } }, "lora.r", ["'lora.r'", "<=256", "257"]),
  badField("dropout 1", { lora: { lora_dropout: 1 } }, "lora.lora_dropout", ["'lora.lora_dropout'", "<1", "1"]),
  badField("an unknown module", { lora: { target_modules: ["lm_head"] } }, "lora.target_modules", [
    "all-linear",
    "q_proj",
    "lm_head",
  ]),
  badField("no modules", { lora: { target_modules: [] } }, "lora.target_modules", [">=1 items", "[]"]),
  badField("a negative learning rate", { training: { learning_rate: -1 } }, "training.learning_rate", [
    "'training.learning_rate'",
    ">0",
    "-1",
  ]),
  badField("an unknown schedule", { training: { lr_scheduler_type: "step" } }, "training.lr_scheduler_type", [
    "cosine",
    '"step"',
  ]),
  badField("an unknown truncation", { training: { truncation: "cut" } }, "training.truncation", ["drop", '"cut"']),
  badField("longer than the model", { training: { max_length: 4096 } }, "training.max_length", ["at most 512", "4096"]),
  badField("two warm-ups", { training: { warmup_steps: 1, warmup_ratio: 0.1 } }, "training.warmup_ratio", [
    "one of",
    "1 and 0.1",
  ]),
  badField(
    "patience without validation",
    { training: { early_stopping_patience: 1 } },
    "training.early_stopping_patience",
    ["'validation_file'", "1"],
  ),
  badField("two epochs", { hyperparameters: { n_epochs: 2 }, training: { n_epochs: 3 } }, "training.n_epochs", [
    "must agree",
    "2 and 3",
  ]),
  badField("priority 101", { scheduling: { priority: 101 } }, "scheduling.priority", ["<=100", "101"]),
  badField("a slowdown below 1", { scheduling: { max_slowdown: 0.5 } }, "scheduling.max_slowdown", [">=1", "0.5"]),
  {
    name: "create: an idempotency key with spaces",
    send: ({ world, text }) =>
      world.request("POST", path, { model: baseModel, training_file: text }, { "idempotency-key": "a b" }),
    status: 400,
    code: "invalid_value",
    param: "Idempotency-Key",
    words: ["'Idempotency-Key'", "255", "a b"],
  },
  {
    name: "create: an idempotency key used for another body",
    send: async ({ world, text }) => {
      const send = (seed: number) =>
        world.request("POST", path, { model: baseModel, training_file: text, seed }, { "idempotency-key": "k" });
      strictEqual((await send(1)).status, 200);
      return await send(2);
    },
    status: 409,
    code: "idempotency_key_reused",
    param: "Idempotency-Key",
    words: ["same request body", "k"],
  },

  // Jobs
  {
    name: "jobs: an unknown id",
    send: ({ world }) => world.request("POST", `${path}/ftjob-nope/cancel`),
    status: 404,
    code: "not_found",
    param: "job_id",
    words: ["'ftjob-nope'"],
  },
  {
    name: "jobs: resume what is not paused",
    send: ({ world, job }) => world.request("POST", `${path}/${job}/resume`),
    status: 400,
    code: "invalid_job_state",
    param: "job_id",
    words: ["must be paused", "it is queued"],
  },
  {
    name: "jobs: cancel what has ended",
    send: async ({ world }) => {
      const id = await world.createJob();
      await world.assign(id);
      await world.report(id, { kind: "failed", blame: "user", code: "x", message: "y", param: null });
      return await world.request("POST", `${path}/${id}/cancel`);
    },
    status: 400,
    code: "invalid_job_state",
    param: "job_id",
    words: ["queued, running or paused", "it is failed"],
  },
  {
    name: "jobs: limit 101",
    send: ({ world }) => world.request("GET", `${path}?limit=101`),
    status: 400,
    code: "invalid_value",
    param: "limit",
    words: ["<=100", '"101"'],
  },
  {
    name: "jobs: metadata without key",
    send: ({ world }) => world.request("GET", `${path}?metadata=x`),
    status: 400,
    code: "invalid_value",
    param: "metadata",
    words: ["metadata[key]=value", '"x"'],
  },
  {
    name: "jobs: no adapter yet",
    send: ({ world, job }) => world.request("GET", `${path}/${job}/adapter`),
    status: 404,
    code: "no_adapter",
    param: "job_id",
    words: ["must have succeeded"],
  },
  {
    name: "checkpoints: an unknown id",
    send: ({ world, job }) => world.request("GET", `${path}/${job}/checkpoints/ftckpt_x_1/adapter`),
    status: 404,
    code: "not_found",
    param: "checkpoint_id",
    words: ["'ftckpt_x_1'"],
  },
  {
    name: "models: an unknown id",
    send: ({ world }) => world.request("GET", "/v1/models/a/b/c"),
    status: 404,
    code: "model_not_found",
    param: "model",
    words: ["'a/b/c'"],
  },
  {
    name: "models: delete a base model",
    send: ({ world }) => world.request("DELETE", `/v1/models/${encodeURIComponent(baseModel)}`),
    status: 403,
    code: "base_model",
    param: "model",
    words: ["fine-tuned", `'${baseModel}'`],
  },

  // Administration
  {
    name: "tenants: capitals in the id",
    send: ({ world }) => world.request("POST", "/v1/admin/tenants", { id: "Team", name: "x" }),
    status: 400,
    code: "invalid_value",
    param: "id",
    words: ["lower-case", '"Team"'],
  },
  {
    name: "tenants: an id that exists",
    send: ({ world }) => world.request("POST", "/v1/admin/tenants", { id: "default", name: "x" }),
    status: 409,
    code: "tenant_exists",
    param: "id",
    words: ["'default'"],
  },
  {
    name: "tenants: weight 0",
    send: ({ world }) => world.request("POST", "/v1/admin/tenants", { name: "x", weight: 0 }),
    status: 400,
    code: "invalid_value",
    param: "weight",
    words: [">0", "0"],
  },
  {
    name: "keys: an unknown scope",
    send: ({ world }) => world.request("POST", "/v1/admin/keys", { name: "x", scope: "root" }),
    status: 400,
    code: "invalid_value",
    param: "scope",
    words: ["admin", '"root"'],
  },
  {
    name: "keys: an unknown tenant",
    send: ({ world }) => world.request("POST", "/v1/admin/keys", { name: "x", tenant: "nope" }),
    status: 400,
    code: "invalid_value",
    param: "tenant",
    words: ["'tenant'", "'nope'"],
  },
  {
    name: "keys: revoke an unknown one",
    send: ({ world }) => world.request("DELETE", "/v1/admin/keys/key-nope"),
    status: 404,
    code: "not_found",
    param: "key_id",
    words: ["'key-nope'"],
  },
];

async function open(): Promise<Context> {
  const world = await World.open({
    limits: { ...defaultLimits, fileBytes: 65_536, lineBytes: 4096, jsonBytes: 16_384 },
  });
  await world.registerHost();
  const answer = [{ role: "assistant", content: "b" }];
  const chat = await world.upload(JSON.stringify({ messages: [{ role: "user", content: "a" }, ...answer] }));
  const text = await world.upload(good.content);
  const preference = await world.upload(JSON.stringify({
    input: { messages: [{ role: "user", content: "a" }] },
    preferred_output: answer,
    non_preferred_output: answer,
  }));
  const done = await world.createJob();
  await world.assign(done);
  await world.steps(done, 1, 6);
  await world.finish(done, 6, { "adapter_config.json": "{}" });
  const result = (await world.plane.store.jobs.get(done))?.resultFileIds[0] ?? "";
  const revokedKey = await world.key("tenant");
  const keys = await (await world.request("GET", "/v1/admin/keys")).json();
  strictEqual((await world.request("DELETE", `/v1/admin/keys/${keys.data.at(-1).id}`)).status, 200);
  return {
    world,
    chat,
    text,
    preference,
    result,
    job: await world.createJob(),
    hostKey: await world.key("host"),
    tenantKey: await world.key("tenant"),
    revokedKey,
  };
}

Deno.test("bad input", async (t) => {
  ok(rows.length >= 40);
  const context = await open();
  await using world = context.world;
  for (const row of rows) {
    await t.step(row.name, async () => {
      const response = await row.send(context);
      const body = await response.json();
      ok(response.headers.get("x-request-id")?.startsWith("req_"));
      deepStrictEqual(Object.keys(body), ["error"]);
      deepStrictEqual(Object.keys(body.error), ["message", "type", "param", "code"]);
      const { message, type, param, code } = body.error;
      deepStrictEqual({ status: response.status, code, param }, {
        status: row.status,
        code: row.code,
        param: row.param,
      }, message);
      ok(typeof type === "string" && type.endsWith("_error"));
      ok(message.length < 600, message);
      for (const word of row.words) {
        ok(
          typeof word === "string" ? message.includes(word) : word.test(message),
          `${JSON.stringify(message)} lacks ${word}`,
        );
      }
      if (response.status === 409) strictEqual(response.headers.get("x-should-retry"), "false");
    });
  }
  // None of them may have left a blob without an owner.
  for await (const blob of world.blobs.list()) {
    ok(await world.plane.store.blobs.referenced(blob.sha256), `nobody refers to ${blob.sha256}`);
  }
});
