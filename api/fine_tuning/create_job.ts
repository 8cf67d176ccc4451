/** From the body of a create request to a new job: everything a body refers to is looked up and checked here. */

import type { Deps } from "../deps.ts";
import { ApiError, badRequest, notFound } from "../http/errors.ts";
import type { NewJob } from "../jobs/service.ts";
import type { BaseModelRow, DataFacts, FileRow } from "../store/types.ts";
import type { CreateJobBody } from "./create_body.ts";
import { resolveJob } from "./resolve.ts";

type TrainingFile = FileRow & { data: DataFacts };

const namedModels = 10;

export async function newJob(deps: Pick<Deps, "store">, tenantId: string, body: CreateJobBody): Promise<NewJob> {
  refuseOtherMethods(body);
  const base = await knownModel(deps, body.model);
  const training = await trainingFile(deps, tenantId, body.training_file, "training_file");
  const validation = typeof body.validation_file === "string"
    ? await trainingFile(deps, tenantId, body.validation_file, "validation_file")
    : null;
  if (validation !== null && validation.data.format !== training.data.format) {
    throw badRequest(
      `'validation_file' must be of the format of 'training_file' ('${training.data.format}'), got '${validation.data.format}'`,
      "validation_file",
    );
  }
  const { spec, scheduling } = resolveJob({
    body,
    trainingFile: training.blob,
    validationFile: validation?.blob ?? null,
    examples: training.data.examples,
    maxPositions: base?.max_positions ?? null,
  });
  const { hyperparameters, method, lora, training: options, scheduling: wishes } = body;
  return {
    tenantId,
    org: tenantId,
    // Files are checked line by line at upload, so there is nothing left to validate.
    state: "queued",
    spec,
    scheduling,
    trainingFileId: training.id,
    validationFileId: validation?.id ?? null,
    suffix: body.suffix ?? null,
    metadata: body.metadata ?? null,
    echo: { hyperparameters, method, lora, training: options, scheduling: wishes },
    estimate: {
      examples: training.data.examples,
      bytes: training.blob.bytes,
      maxExampleBytes: training.data.maxExampleBytes,
    },
  };
}

function refuseOtherMethods({ method }: CreateJobBody): void {
  if (method === null || method === undefined) return;
  if (method.type !== "supervised") {
    throw badRequest(
      `'method.type' must be 'supervised', the only method of this server, got '${method.type}'`,
      "method.type",
      "unsupported_method",
    );
  }
  const other = method.dpo != null ? "method.dpo" : method.reinforcement != null ? "method.reinforcement" : null;
  if (other !== null) throw badRequest(`'${other}' must be absent where 'method.type' is 'supervised'`, other);
}

/** null: not seen yet, but a host can fetch it. */
async function knownModel({ store }: Pick<Deps, "store">, id: string): Promise<BaseModelRow | null> {
  const base = await store.models.getBase(id);
  if (base !== null) return base;
  if (id.startsWith("ft:")) {
    throw badRequest(
      `'model' must be a base model: training a fine-tuned model further is not supported, got '${id}'`,
      "model",
      "unsupported_model",
    );
  }
  const hubName = /^[A-Za-z0-9][A-Za-z0-9._-]*\/[A-Za-z0-9][A-Za-z0-9._-]*$/.test(id);
  if (hubName && (await store.hosts.list()).some(({ value }) => value.canFetchModels && !value.lost)) return null;
  const known = (await store.models.listBases()).map((each) => each.id);
  const names = known.length === 0
    ? "no host has offered one yet"
    : `known are ${known.slice(0, namedModels).join(", ")}${known.length > namedModels ? ", …" : ""}`;
  throw new ApiError(404, `'model' must be a model that a host offers (${names}), got '${id}'`, {
    param: "model",
    code: "model_not_found",
  });
}

async function trainingFile(
  { store }: Pick<Deps, "store">,
  tenantId: string,
  id: string,
  param: "training_file" | "validation_file",
): Promise<TrainingFile> {
  const file = await store.files.get(tenantId, id);
  if (file === null) throw notFound("file", id, param, "file_not_found");
  if (file.purpose !== "fine-tune" || file.data === null) {
    throw badRequest(`'${param}' must be a file of purpose 'fine-tune', got one of '${file.purpose}'`, param);
  }
  if (file.data.format === "preference") {
    throw badRequest(
      `'${param}' must have lines of format chat, completion or text: training on preferences is not supported, got '${file.data.format}'`,
      param,
      "unsupported_format",
    );
  }
  return { ...file, data: file.data };
}
