/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />
/** Tokenises one job's files off the agent's thread: minutes of work must not delay a heartbeat. */

import { dirname } from "node:path";
import { writeFileAtomic } from "../checkpoint/format.ts";
import { DataError } from "../data/errors.ts";
import { prepareShard } from "../data/prepare.ts";
import { encodeShard, shardSha256 } from "../data/shard_file.ts";
import type { ShardFile } from "../engine/protocol.ts";
import { ModelCatalog } from "../models/catalog.ts";
import type { PrepareAnswer, PrepareTask } from "./prepare.ts";

async function prepare(task: PrepareTask): Promise<PrepareAnswer> {
  try {
    const catalog = new ModelCatalog({ folders: [...task.modelFolders], cacheFolder: task.modelCache });
    const model = await catalog.resolve(task.model);
    const files: ShardFile[] = [];
    for (const { path, sha256 } of task.files) {
      const shard = await prepareShard({
        model,
        file: path,
        fileSha256: sha256,
        training: task.training,
        modelMaxLength: model.config.maxPositions,
        cacheFolder: task.tokenCache,
      });
      const content = shardSha256(shard);
      const target = `${task.shardFolder}/${content}.shard`;
      await Deno.mkdir(dirname(target), { recursive: true });
      await writeFileAtomic(target, encodeShard(shard, content));
      files.push({ path: target, sha256: content });
    }
    return { ok: true, files };
  } catch (error) {
    const { message } = error as Error;
    if (error instanceof DataError) return { ok: false, data: { code: error.code, param: error.param }, message };
    return { ok: false, data: null, message };
  }
}

self.onmessage = async (event: MessageEvent<PrepareTask>) => {
  self.postMessage(await prepare(event.data));
};
