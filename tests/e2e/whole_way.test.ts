/** One job the whole way: files and jobs in through the SDK, a PEFT folder out, checked from outside. */

import { assert, assertEquals } from "../harness/assert.ts";
import { demoModel } from "../demo/model.ts";
import { demoTasks } from "../demo/tasks/mod.ts";
import { adapterOf, createJob, jobEnds, jobEvents, jobSteps, uploadJsonl } from "../harness/jobs.ts";
import { parseSafetensors } from "../harness/safetensors.ts";
import { Service } from "../harness/service.ts";
import { pythonWith, runPython } from "../harness/python.ts";

Deno.test("a job goes in through the openai client and a PEFT adapter comes out", async (t) => {
  const folder = await Deno.makeTempDir({ prefix: "tlora-e2e-" });
  const service = await Service.start({ folder });
  try {
    await service.startHost({ models: [demoModel.folder], threads: 2 });
    await service.modelOffered(demoModel.id);
    const client = service.client();
    const task = demoTasks[0];
    assert(task !== undefined);
    const training = await uploadJsonl(client, "train.jsonl", task.train(5, 24));
    const validation = await uploadJsonl(client, "valid.jsonl", task.heldOut(6, 8));
    const created = await createJob(client, {
      model: demoModel.id,
      training_file: training,
      validation_file: validation,
      suffix: "whole-way",
      seed: 7,
      lora: { r: 5, lora_alpha: 10, target_modules: ["q_proj", "v_proj", "down_proj"] },
      training: { n_epochs: 2, batch_size: 5, learning_rate: 1e-3 },
    });
    assert(["validating_files", "queued"].includes(created.status), created.status);
    const job = await jobEnds(client, created.id, 120);
    assertEquals(job.status, "succeeded", job.error?.message);
    assert(job.fine_tuned_model?.startsWith(`ft:${demoModel.id}:`) === true, String(job.fine_tuned_model));
    const { files } = await adapterOf(client, job);

    await t.step("every optimizer step is an event, once, and the loss falls", async () => {
      const steps = await jobSteps(client, job.id);
      assertEquals(steps.map((step) => step.step), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
      assert((steps.at(-1)?.train_loss ?? Infinity) < (steps[0]?.train_loss ?? 0));
      assertEquals(job.trained_tokens, steps.reduce((sum, step) => sum + step.tokens, 0));
    });

    await t.step("the adapter has PEFT's structure", () => {
      const config = JSON.parse(new TextDecoder().decode(files.get("adapter_config.json")));
      assertEquals(config.peft_type, "LORA");
      assertEquals([config.r, config.lora_alpha, config.bias, config.task_type], [5, 10, "none", "CAUSAL_LM"]);
      assertEquals([...config.target_modules].sort(), ["down_proj", "q_proj", "v_proj"]);
      const { tensors, metadata } = parseSafetensors(files.get("adapter_model.safetensors") as Uint8Array);
      assertEquals(metadata["format"], "pt");
      assertEquals(tensors.size, 5 * 3 * 2);
      const a = tensors.get("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
      const b = tensors.get("base_model.model.model.layers.4.mlp.down_proj.lora_B.weight");
      assertEquals(a?.shape, [5, 256]);
      assertEquals(b?.shape, [256, 5]);
      assert(b?.values.some((value) => value !== 0) === true, "B was never updated");
    });

    await t.step("the fine-tuned model is listed and its checkpoints too", async () => {
      const models = await client.models.list();
      assert(models.data.some((model) => model.id === job.fine_tuned_model));
      const checkpoints = await client.fineTuning.jobs.checkpoints.list(job.id);
      assert(checkpoints.data.length >= 1);
      const events = await jobEvents(client, job.id);
      assert(events.length > 10);
    });

    const python = await pythonWith(["torch", "transformers", "peft"]);
    await t.step({
      name: "PEFT loads it; its logits and its loss on the held-out file are the engine's",
      ignore: python === undefined,
      fn: async () => {
        const adapter = `${folder}/adapter`;
        await Deno.mkdir(adapter);
        for (const [name, bytes] of files) await Deno.writeFile(`${adapter}/${name}`, bytes);
        const reported = (await jobSteps(client, job.id)).findLast((step) => step.valid_loss !== undefined)?.valid_loss;
        const rows = task.heldOut(6, 8).map((row) => JSON.stringify(row)).join("\n");
        await Deno.writeTextFile(`${folder}/valid.jsonl`, rows);
        const output = await runPython(python as string, new URL("./peft_check.py", import.meta.url).pathname, [
          demoModel.folder,
          adapter,
          `${folder}/valid.jsonl`,
          new URL("../../kernels/build/libtlora.so", import.meta.url).pathname,
        ]);
        const checked = JSON.parse(output) as { loss: number; missing: string[]; largest_logit_difference: number };
        const { loss, missing, largest_logit_difference: difference } = checked;
        assertEquals(missing, []);
        console.log(`    PEFT loss ${loss}, engine ${reported}, largest logit difference ${difference}`);
        assert(difference < 1e-4, `PEFT's and the engine's logits differ by up to ${difference}`);
        // PEFT computes in fp32 here, a GPU of ours in bf16.
        const tolerance = (await service.devices()).every(({ backend }) => backend === "cpu") ? 1e-4 : 2e-2;
        assert(Math.abs(loss - (reported ?? NaN)) < tolerance, `PEFT says ${loss}, the engine said ${reported}`);
      },
    });
  } finally {
    await service.stop();
    await Deno.remove(folder, { recursive: true });
  }
});
