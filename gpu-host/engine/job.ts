/** One job inside an engine process: its data cursor, its adapter slot and what its next step consists of. */

import type { StepMetrics } from "../../api/schema/sync.ts";
import type { CheckpointState } from "../checkpoint/format.ts";
import { cachedOrder, type OrderSource, stepExamples, stepsPerEpoch } from "../data/order.ts";
import { learningRate } from "../data/schedule.ts";
import type { TokenShard } from "../data/shard.ts";
import { type AdapterFile, type AdapterTensor, peftFiles } from "../peft/export.ts";
import type { OptimizerItem, Slot } from "./abi.ts";
import { type Sequence, sequenceLength } from "./batch.ts";
import type { StepShape } from "./cost_fit.ts";
import type { EngineModel } from "./engine.ts";
import type { Evaluation, ValidationResult } from "./evaluation.ts";
import { freshProgress, type Progress } from "./progress.ts";
import type { AddCommand, JobKey } from "./protocol.ts";

export interface NextStep {
  readonly sequences: readonly Sequence[];
  readonly lossTokens: number;
  readonly shape: StepShape;
}

export class TrainingJob {
  readonly key: JobKey;
  readonly command: AddCommand;
  readonly slot: Slot;
  readonly tensors: readonly AdapterTensor[];
  readonly train: TokenShard;
  readonly validation: TokenShard | null;
  readonly stepsPerEpoch: number;
  readonly totalSteps: number;
  readonly #order: OrderSource = cachedOrder();
  /** Optimizer steps done; the data cursor follows from it. */
  step = 0;
  progress: Progress = freshProgress;
  /** Under way; the job takes no step meanwhile. `after`: what the step before it measured; null = the baseline. */
  evaluation: { readonly after: StepMetrics | null; readonly pass: Evaluation } | null = null;

  constructor(command: AddCommand, slot: Slot, tensors: readonly AdapterTensor[], shards: {
    train: TokenShard;
    validation: TokenShard | null;
  }) {
    this.key = { job_id: command.job_id, epoch: command.epoch };
    this.command = command;
    this.slot = slot;
    this.tensors = tensors;
    this.train = shards.train;
    this.validation = shards.validation;
    this.stepsPerEpoch = stepsPerEpoch(shards.train.examples, command.training.batch_size);
    this.totalSteps = this.stepsPerEpoch * command.training.n_epochs;
  }

  get done(): boolean {
    return this.step >= this.totalSteps;
  }

  nextStep(): NextStep {
    const { training, seed, lora } = this.command;
    const step = this.step + 1;
    const examples = stepExamples(this.#order, step, training.batch_size, this.train.examples, seed);
    let lossTokens = 0;
    for (const example of examples) lossTokens += this.train.lossTokens[example]!;
    const sequences = Array.from(examples, (example, index) => ({
      slot: this.slot,
      shard: this.train,
      example,
      lossScale: 1 / lossTokens,
      // Never the same for two sequences of a job, whatever the length of an epoch's last batch.
      dropoutKey: (step - 1) * training.batch_size + index,
    }));
    const lengths = sequences.map(sequenceLength);
    const tokens = lengths.reduce((sum, length) => sum + length, 0);
    const squares = lengths.reduce((sum, length) => sum + length * length, 0);
    return { sequences, lossTokens, shape: { tokens, squares, adapters: 1, rankTokens: tokens * lora.r } };
  }

  nextLearningRate(): number {
    return learningRate(this.command.training, this.step + 1, this.totalSteps);
  }

  optimizerItem(): OptimizerItem {
    const { training } = this.command;
    return {
      slot: this.slot,
      step: this.step + 1,
      learningRate: this.nextLearningRate(),
      beta1: training.adam_beta1,
      beta2: training.adam_beta2,
      epsilon: training.adam_epsilon,
      weightDecay: training.weight_decay,
      maxGradNorm: training.max_grad_norm,
    };
  }

  get epochEnds(): boolean {
    return this.step % this.stepsPerEpoch === 0;
  }

  get evaluationDue(): boolean {
    if (this.validation === null) return false;
    const every = this.command.training.eval_steps;
    return this.done || (every === null ? this.epochEnds : this.step % every === 0);
  }

  get visibleCheckpointDue(): boolean {
    const every = this.command.training.save_steps;
    return every === null ? this.epochEnds : this.step % every === 0;
  }

  /** Takes an evaluation into account; true when training should stop early. */
  judge(result: ValidationResult): boolean {
    const best = this.progress.best_valid_loss;
    const better = Number.isFinite(result.valid_loss) && (best === null || result.valid_loss < best);
    this.progress = {
      ...this.progress,
      best_valid_loss: better ? result.valid_loss : best,
      worse_evaluations: better ? 0 : this.progress.worse_evaluations + 1,
    };
    const patience = this.command.training.early_stopping_patience;
    return patience !== null && this.progress.worse_evaluations >= patience;
  }

  checkpoint(model: EngineModel, identity: Record<string, string>): CheckpointState {
    return {
      jobId: this.key.job_id,
      step: this.step,
      specHash: this.command.spec_hash,
      identity,
      weights: model.exportState(this.slot, "weights"),
      moment1: model.exportState(this.slot, "moment1"),
      moment2: model.exportState(this.slot, "moment2"),
      extra: { ...this.progress },
    };
  }

  adapterFiles(model: EngineModel, baseModel: string): AdapterFile[] {
    return peftFiles({
      baseModel,
      lora: this.command.lora,
      tensors: this.tensors,
      weights: model.exportState(this.slot, "weights"),
    });
  }
}
