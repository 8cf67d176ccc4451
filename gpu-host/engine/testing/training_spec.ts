import type { LoraSpec, TrainingSpec } from "../../../api/schema/job_spec.ts";

export function trainingSpec(changes: Partial<TrainingSpec> = {}): TrainingSpec {
  return {
    n_epochs: 2,
    batch_size: 4,
    learning_rate: 0.01,
    lr_scheduler_type: "linear",
    warmup_steps: null,
    warmup_ratio: 0,
    weight_decay: 0,
    adam_beta1: 0.9,
    adam_beta2: 0.999,
    adam_epsilon: 1e-8,
    max_grad_norm: 1,
    max_length: null,
    truncation: "drop",
    train_on_inputs: false,
    save_steps: null,
    eval_steps: null,
    early_stopping_patience: null,
    ...changes,
  };
}

export function loraSpec(changes: Partial<LoraSpec> = {}): LoraSpec {
  return { r: 2, lora_alpha: 4, lora_dropout: 0, target_modules: ["q_proj"], use_rslora: false, ...changes };
}
