/**
 * Trains the jobs of one base model together. One turn = one fused step of every job that trains, then one micro-batch of
 * evaluation, then writes that wait. Jobs come and go between turns only.
 *
 * No job's numbers may depend on its neighbours: each job's sequences go in in data order, its loss is scaled by its own loss
 * tokens, and the engine adds gradients one sequence at a time, so neither the group nor the cut into micro-batches shows.
 */

import { CheckpointError, type CheckpointState, compareIdentity, encodeCheckpoint } from "../checkpoint/format.ts";
import type { TokenShard } from "../data/shard.ts";
import type { StepMetrics } from "../../api/schema/sync.ts";
import type { OptimizerResult, SegmentResult } from "./abi.ts";
import { cut, pack, type PackedBatch, type Sequence, sequenceLength } from "./batch.ts";
import { type CostCoefficients, fitCost, type MeasuredStep } from "./cost_fit.ts";
import { type EngineModel, flatSize } from "./engine.ts";
import { Evaluation, type ValidationResult } from "./evaluation.ts";
import { type NextStep, TrainingJob } from "./job.ts";
import { byteText, type GroupShape, type MemoryPlan, planMemory } from "./memory_plan.ts";
import type { ModelFit } from "./profile.ts";
import { progress } from "./progress.ts";
import type {
  AddCommand,
  EngineEvent,
  FailedEvent,
  JobEvent,
  ReleaseCommand,
  ShardFile,
  WrittenFile,
} from "./protocol.ts";
import { TlError } from "./tl_error.ts";
import { type OwedFile, WriteQueue } from "./write_queue.ts";

export interface TrainerOptions {
  readonly model: EngineModel;
  readonly baseModel: string;
  /** Everything but the job's own part of the identity under which a resume is bit-exact. */
  readonly identity: Readonly<Record<string, string>>;
  readonly microBatchTokens: number;
  readonly resumeSeconds: number;
  /** Before any measurement. */
  readonly fit: ModelFit;
  readonly emit: (event: EngineEvent) => void;
  /** Seconds of a clock that never goes back. */
  readonly now: () => number;
  readonly readShard: (file: ShardFile) => TokenShard;
  readonly readCheckpoint: (path: string) => CheckpointState;
  readonly makeFolder: (path: string) => Promise<void>;
  readonly writeFile: (path: string, bytes: Uint8Array<ArrayBuffer>) => Promise<void>;
}

interface Member {
  readonly job: TrainingJob;
  readonly writes: WriteQueue;
  identity: Record<string, string>;
  release: ReleaseCommand["mode"] | null;
  /** Set once the job takes no more steps: what to say when its last files are written. */
  farewell: JobEvent | "written" | null;
  lastResumePoint: number;
  lastWriteSeconds: number;
}

interface Tally {
  lossSum: number;
  lossTokens: number;
  correct: number;
}

/** The first steps after opening a model fault its pages in and say nothing about later ones. */
const WARM_UP_STEPS = 2;
const MEASURED_STEPS = 256;
const STEPS_PER_FIT = 16;
/** Resume points take at most a twentieth of the time. */
const RESUME_SHARE = 20;

export class Trainer {
  readonly #options: TrainerOptions;
  readonly #members = new Map<string, Member>();
  readonly #maxPositions: number;
  /** Wanted tokens of a micro-batch, and those that this group gets. */
  #budget: number;
  #microBatchTokens: number;
  /** The members and the budget for which the memory was last planned. */
  #plannedFor = "";
  #steps = 0;
  #measured: MeasuredStep[] = [];

  constructor(options: TrainerOptions) {
    this.#options = options;
    this.#maxPositions = options.model.describe().maxPositions;
    this.#budget = this.#microBatchTokens = options.microBatchTokens;
  }

  /** True when another turn has work right now. */
  get busy(): boolean {
    for (const member of this.#members.values()) {
      if (member.farewell === null || member.release === "discard" || member.writes.empty) return true;
    }
    return false;
  }

  /** Seconds until a turn has work again; undefined when only a command can bring some. */
  get sleepSeconds(): number | undefined {
    const times = [...this.#members.values()].flatMap(({ writes }) => writes.retryAt ?? []);
    return times.length === 0 ? undefined : Math.max(0, Math.min(...times) - this.#options.now());
  }

  setBudget(microBatchTokens: number): void {
    this.#budget = microBatchTokens;
  }

  add(command: AddCommand): void {
    const { job_id, epoch } = command;
    if (this.#members.has(job_id)) {
      throw new Error(`job ${job_id} is already in this engine; release it before it is added again`);
    }
    let member: Member;
    try {
      member = this.#admit(command);
    } catch (error) {
      this.#options.emit({ type: "failed", job_id, epoch, ...refusal(error) });
      return;
    }
    this.#members.set(job_id, member);
    const { job } = member;
    if (job.validation !== null && job.progress.baseline === null) {
      // Slot 0 is the base alone, which is what a fresh adapter is, and it is still there after a resume.
      job.evaluation = { after: null, pass: new Evaluation(job.validation, 0n) };
    } else {
      this.#prepared(member);
    }
  }

  #admit(command: AddCommand): Member {
    const { model, now, makeFolder, writeFile, emit } = this.#options;
    const { job_id, epoch } = command;
    const shards = {
      train: this.#options.readShard(command.train),
      validation: command.validation === null ? null : this.#options.readShard(command.validation),
    };
    const resume = command.resume === null ? null : this.#options.readCheckpoint(command.resume);
    const slot = model.addAdapter({
      rank: command.lora.r,
      alpha: command.lora.lora_alpha,
      dropout: command.lora.lora_dropout,
      rslora: command.lora.use_rslora,
      targetModules: command.lora.target_modules,
      seed: command.seed,
    });
    try {
      const job = new TrainingJob(command, slot, model.layout(slot), shards);
      this.#checkRoom(job);
      const identity = {
        ...this.#options.identity,
        training_data: command.train.sha256,
        validation_data: command.validation?.sha256 ?? "none",
      };
      if (resume !== null) this.#restore(job, resume, identity);
      const writes = new WriteQueue(command.folder, {
        makeFolder,
        writeFile,
        emit,
        now,
        warn: (message) => emit({ type: "notice", job_id, epoch, level: "warn", message }),
      });
      return {
        job,
        writes,
        identity,
        release: null,
        farewell: null,
        lastResumePoint: now(),
        lastWriteSeconds: 0,
      };
    } catch (error) {
      model.removeAdapter(slot);
      throw error;
    }
  }

  #restore(job: TrainingJob, state: CheckpointState, identity: Record<string, string>): void {
    const { model, emit } = this.#options;
    if (state.jobId !== job.key.job_id || state.specHash !== job.command.spec_hash) {
      throw new CheckpointError(
        `the checkpoint belongs to job ${state.jobId} with specification ${state.specHash}, ` +
          `not to job ${job.key.job_id} with ${job.command.spec_hash}`,
      );
    }
    const size = flatSize(job.tensors);
    if (state.weights.length !== size) {
      throw new CheckpointError(`the adapter must have ${size} elements, the checkpoint has ${state.weights.length}`);
    }
    model.importState(job.slot, "weights", state.weights);
    model.importState(job.slot, "moment1", state.moment1);
    model.importState(job.slot, "moment2", state.moment2);
    job.step = state.step;
    job.progress = progress.parse(state.extra);
    const differences = compareIdentity(state.identity, identity);
    if (differences.length > 0) {
      emit({
        type: "notice",
        ...job.key,
        level: "warn",
        message: `not bit-exact: resumed at step ${state.step} under another identity (${differences.join("; ")})`,
      });
    }
  }

  #prepared({ job }: Member): void {
    const { stats, examples } = job.train;
    this.#options.emit({
      type: "prepared",
      ...job.key,
      examples,
      dropped_examples: stats.dropped,
      truncated_examples: stats.truncated,
      tokens: stats.tokens,
      loss_tokens: stats.lossTokens,
      max_length: stats.maxLength,
      steps_per_epoch: job.stepsPerEpoch,
      total_steps: job.totalSteps,
      validation_examples: job.validation?.examples ?? 0,
      baseline: job.progress.baseline,
    });
  }

  /** Takes effect at the next turn. A job that is not here (any more) needs no release. */
  release(command: ReleaseCommand): void {
    const member = this.#members.get(command.job_id);
    if (member === undefined || member.job.key.epoch !== command.epoch) return;
    member.release = command.mode;
  }

  async turn(): Promise<void> {
    for (const member of [...this.#members.values()]) {
      if (member.release !== null) await this.#releaseNow(member);
    }
    for (const member of [...this.#members.values()]) await this.#settleResumed(member);
    this.#planMemory();
    const training = this.#staying().filter(({ job }) => job.evaluation === null);
    if (training.length > 0) await this.#fusedStep(training);
    await this.#evaluate(this.#staying().filter(({ job }) => job.evaluation !== null));
    for (const member of [...this.#members.values()]) await this.#retryWrites(member);
  }

  #staying(): Member[] {
    return [...this.#members.values()].filter(({ farewell }) => farewell === null);
  }

  /** A checkpoint of the last step resumes into a job that has nothing left to train. */
  async #settleResumed(member: Member): Promise<void> {
    const { job } = member;
    if (member.farewell !== null || job.evaluation !== null || !this.#ended(job)) return;
    await this.#finish(member);
  }

  #ended(job: TrainingJob): boolean {
    const patience = job.command.training.early_stopping_patience;
    return job.done || (patience !== null && job.progress.worse_evaluations >= patience);
  }

  // ---- memory ----

  /** A newcomer for which there is no room beside those that train goes, and they stay. */
  #checkRoom(newcomer: TrainingJob): void {
    const group = this.#shape([...this.#staying().map(({ job }) => job), newcomer]);
    const plan = planMemory((request) => this.#options.model.memoryEstimate(request), group, group.longest);
    if (!plan.fits) throw new NoRoomError(plan, group.adapters - 1, this.#options.model.describe().adapterBytes);
  }

  /** Before the first batch of a group whose members or budget changed. */
  #planMemory(): void {
    const members = this.#staying();
    const group = `${this.#budget} ${members.map(({ job }) => job.slot).join(" ")}`;
    if (group === this.#plannedFor) return;
    this.#plannedFor = group;
    this.#microBatchTokens = this.#budget;
    if (members.length === 0) return;
    const shape = this.#shape(members.map(({ job }) => job));
    const plan = planMemory((request) => this.#options.model.memoryEstimate(request), shape, this.#budget);
    this.#microBatchTokens = plan.microBatchTokens;
    this.#options.emit({
      type: "memory",
      jobs: members.length,
      micro_batch_tokens: plan.microBatchTokens,
      fits: plan.fits,
      needed_bytes: plan.stepBytes,
      available_bytes: plan.availableBytes,
      recompute: plan.recompute,
    });
  }

  #shape(jobs: readonly TrainingJob[]): GroupShape {
    const sum = (pick: (job: TrainingJob) => number): number => jobs.reduce((total, job) => total + pick(job), 0);
    return {
      // A longer sequence is refused by its own batch.
      longest: Math.min(this.#maxPositions, Math.max(...jobs.map(({ train }) => train.stats.maxLength))),
      stepTokens: sum(({ command, train }) => command.training.batch_size * train.stats.maxLength),
      adapters: jobs.length,
      stripColumns: sum(({ command }) => Math.ceil(command.lora.r / 16) * 16),
      dropout: jobs.some(({ command }) => command.lora.lora_dropout > 0),
    };
  }

  // ---- steps ----

  async #fusedStep(members: readonly Member[]): Promise<void> {
    const { model, now } = this.#options;
    const began = now();
    const steps = new Map<Member, NextStep>(members.map((member) => [member, member.job.nextStep()]));
    const tallies = new Map<Member, Tally>(
      members.map((member) => [member, { lossSum: 0, lossTokens: 0, correct: 0 }]),
    );
    const sequences = [...steps].flatMap(([member, step]) =>
      step.sequences.map((sequence) => ({ member, ...sequence }))
    );
    for (const run of cut(sequences, this.#microBatchTokens)) {
      this.#run(run, (batch) => model.forwardBackward(batch), ({ member }, result) => {
        const tally = tallies.get(member)!;
        tally.lossSum += result.lossSum;
        tally.lossTokens += result.lossTokens;
        tally.correct += result.correct;
      });
    }
    const alive = members.filter((member) => this.#has(member));
    if (alive.length === 0) return;
    const updates = this.#optimize(alive);
    const seconds = now() - began;
    this.#measure([...updates.keys()].map((member) => steps.get(member)!), seconds);
    for (const [member, { learningRate, result }] of updates) {
      await this.#stepped(member, {
        next: steps.get(member)!,
        tally: tallies.get(member)!,
        learningRate,
        result,
        seconds,
        groupSize: alive.length,
      });
    }
  }

  /** One call for all; where that does not fit in memory, halves, down to the one job that fails. */
  #optimize(members: readonly Member[]): Map<Member, { learningRate: number; result: OptimizerResult }> {
    const items = members.map(({ job }) => job.optimizerItem());
    let results: OptimizerResult[];
    try {
      results = this.#options.model.optimizerStep(items);
    } catch (error) {
      if (!(error instanceof TlError) || error.status !== "OUT_OF_MEMORY") throw error;
      if (members.length === 1) {
        this.#fail(members[0]!, refusal(error));
        return new Map();
      }
      const half = Math.ceil(members.length / 2);
      return new Map([...this.#optimize(members.slice(0, half)), ...this.#optimize(members.slice(half))]);
    }
    return new Map(
      members.map((member, i) => [member, { learningRate: items[i]!.learningRate, result: results[i]! }]),
    );
  }

  async #stepped(member: Member, outcome: {
    next: NextStep;
    tally: Tally;
    learningRate: number;
    result: OptimizerResult;
    seconds: number;
    groupSize: number;
  }): Promise<void> {
    const { job } = member;
    const { next, tally, result } = outcome;
    const step = job.step + 1;
    const loss = tally.lossSum / tally.lossTokens;
    if (!result.finite || !Number.isFinite(loss) || !Number.isFinite(result.gradNorm)) {
      this.#fail(member, {
        blame: "user",
        code: "diverged",
        message: `training diverged at step ${step}: loss ${loss}, gradient norm ${result.gradNorm}, learning rate ` +
          `${outcome.learningRate}; use a lower learning_rate, a longer warm-up or a smaller max_grad_norm`,
        param: "training.learning_rate",
      });
      return;
    }
    job.step = step;
    job.progress = { ...job.progress, trained_tokens: job.progress.trained_tokens + next.shape.tokens };
    const metrics: StepMetrics = {
      step,
      train_loss: loss,
      train_mean_token_accuracy: tally.correct / tally.lossTokens,
      learning_rate: outcome.learningRate,
      grad_norm: result.gradNorm,
      tokens: next.shape.tokens,
      loss_tokens: next.lossTokens,
      epoch: step / job.stepsPerEpoch,
      step_seconds: outcome.seconds,
      group_size: outcome.groupSize,
    };
    if (job.evaluationDue && job.validation !== null) {
      job.evaluation = { after: metrics, pass: new Evaluation(job.validation, job.slot) };
      return;
    }
    await this.#completeStep(member, metrics);
  }

  async #completeStep(member: Member, metrics: StepMetrics): Promise<void> {
    const { job } = member;
    const { now, emit, resumeSeconds } = this.#options;
    emit({ type: "step", ...job.key, metrics });
    if (job.visibleCheckpointDue) {
      await this.#writeCheckpoint(member, "visible", metrics);
    } else if (!this.#ended(job)) {
      // Time decides only whether the state is copied out, never what it is.
      const wait = Math.max(resumeSeconds, RESUME_SHARE * member.lastWriteSeconds);
      if (now() - member.lastResumePoint >= wait) await this.#writeCheckpoint(member, "resume", metrics);
    }
    if (this.#ended(job)) await this.#finish(member);
  }

  /**
   * Runs a batch. What does not fit is tried again in halves, which changes no bit; a single sequence that the engine still
   * refuses fails its job and no other.
   */
  #run<S extends Sequence & { readonly member: Member }>(
    run: readonly S[],
    call: (batch: PackedBatch) => SegmentResult[],
    take: (sequence: S, result: SegmentResult) => void,
  ): void {
    const sequences = run.filter(({ member }) => this.#has(member));
    if (sequences.length === 0) return;
    let results: SegmentResult[];
    try {
      results = call(pack(sequences));
    } catch (error) {
      if (!(error instanceof TlError) || !error.nothingChanged) throw error;
      if (sequences.length === 1) {
        this.#fail(sequences[0]!.member, refusal(error));
        return;
      }
      const half = Math.ceil(sequences.length / 2);
      if (error.status === "OUT_OF_MEMORY") {
        const tokens = sequences.slice(0, half).reduce((sum, sequence) => sum + sequenceLength(sequence), 0);
        this.#microBatchTokens = Math.max(1, Math.min(this.#microBatchTokens, tokens));
      }
      this.#run(sequences.slice(0, half), call, take);
      this.#run(sequences.slice(half), call, take);
      return;
    }
    sequences.forEach((sequence, i) => take(sequence, results[i]!));
  }

  #has(member: Member): boolean {
    return this.#members.get(member.job.key.job_id) === member;
  }

  #measure(steps: readonly NextStep[], seconds: number): void {
    this.#steps++;
    if (this.#steps <= WARM_UP_STEPS) return;
    const sum = (pick: (step: NextStep) => number): number => steps.reduce((total, step) => total + pick(step), 0);
    this.#measured.push({
      tokens: sum(({ shape }) => shape.tokens),
      squares: sum(({ shape }) => shape.squares),
      adapters: steps.length,
      rankTokens: sum(({ shape }) => shape.rankTokens),
      seconds,
    });
    if (this.#measured.length > MEASURED_STEPS) this.#measured = this.#measured.slice(-MEASURED_STEPS);
    if ((this.#steps - WARM_UP_STEPS) % STEPS_PER_FIT !== 0) return;
    const cost: CostCoefficients = fitCost(this.#measured, this.#options.fit.cost);
    this.#options.emit({
      type: "profile",
      fit: { ...this.#options.fit, cost, samples: this.#options.fit.samples + this.#steps - WARM_UP_STEPS },
    });
  }

  // ---- validation ----

  async #evaluate(members: readonly Member[]): Promise<void> {
    const batch: (Sequence & { member: Member })[] = [];
    let room = this.#microBatchTokens;
    for (const member of members) {
      for (const sequence of member.job.evaluation!.pass.take(room, batch.length === 0)) {
        batch.push({ member, ...sequence });
        room -= sequenceLength(sequence);
      }
    }
    this.#run(
      batch,
      (packed) => this.#options.model.evaluate(packed),
      ({ member }, result) => member.job.evaluation!.pass.add(result),
    );
    for (const member of members) {
      if (this.#has(member) && member.job.evaluation!.pass.done) await this.#evaluated(member);
    }
  }

  async #evaluated(member: Member): Promise<void> {
    const { job } = member;
    const { after, pass } = job.evaluation!;
    const result: ValidationResult = pass.result();
    job.evaluation = null;
    if (after === null) {
      job.progress = { ...job.progress, baseline: finite(result) };
      this.#prepared(member);
      return;
    }
    job.judge(result);
    await this.#completeStep(member, { ...after, ...finite(result) });
  }

  // ---- files ----

  async #writeCheckpoint(
    member: Member,
    kind: "resume" | "visible" | "last",
    metrics: StepMetrics | null,
  ): Promise<void> {
    const { model, now, baseModel } = this.#options;
    const { job } = member;
    const { step } = job;
    const began = now();
    const visible = kind === "visible";
    const files: OwedFile[] = [{ name: STATE_FILE, bytes: encodeCheckpoint(job.checkpoint(model, member.identity)) }];
    if (visible) files.push(...job.adapterFiles(model, baseModel));
    await member.writes.add({
      folder: `checkpoint-${step}`,
      files,
      kind,
      label: `the checkpoint of step ${step}`,
      announce: ([state, ...others]) => ({
        type: "checkpoint",
        ...job.key,
        step,
        state: state!,
        visible,
        files: others,
        metrics,
      }),
    });
    member.lastWriteSeconds = now() - began;
    member.lastResumePoint = now();
  }

  async #finish(member: Member): Promise<void> {
    const { model, baseModel } = this.#options;
    const { job } = member;
    member.farewell = "written";
    await member.writes.add({
      folder: "result",
      files: job.adapterFiles(model, baseModel),
      kind: "last",
      label: "the finished adapter",
      announce: (files: readonly WrittenFile[]) => {
        this.#remove(member);
        return {
          type: "finished",
          ...job.key,
          step: job.step,
          files,
          trained_tokens: job.progress.trained_tokens,
          early_stopped: !job.done,
        };
      },
    });
  }

  async #releaseNow(member: Member): Promise<void> {
    const { job } = member;
    const { key } = job;
    if (member.release === "discard") {
      this.#remove(member);
      this.#options.emit({ type: "released", ...key, step: job.step });
      return;
    }
    // Its last files are on their way: the release follows them, or `finished` makes it void.
    if (member.farewell !== null) return;
    // A checkpoint follows the report of its step, and that one waits for the evaluation.
    if (job.evaluation !== null && job.evaluation.after !== null) return;
    member.farewell = { type: "released", ...key, step: job.step };
    await this.#writeCheckpoint(member, "last", null);
    await this.#retryWrites(member);
  }

  async #retryWrites(member: Member): Promise<void> {
    if (!this.#has(member)) return;
    const { retryAt } = member.writes;
    if (retryAt !== undefined && this.#options.now() >= retryAt) await member.writes.flush();
    if (member.writes.empty && member.farewell !== null && member.farewell !== "written") {
      this.#remove(member);
      this.#options.emit(member.farewell);
    }
  }

  // ---- leaving ----

  #remove(member: Member): void {
    if (!this.#has(member)) return;
    this.#members.delete(member.job.key.job_id);
    this.#options.model.removeAdapter(member.job.slot);
  }

  #fail(member: Member, reason: Omit<FailedEvent, "type" | "job_id" | "epoch">): void {
    this.#remove(member);
    this.#options.emit({ type: "failed", ...member.job.key, ...reason });
  }
}

export const STATE_FILE = "state.safetensors";

/** JSON has no NaN: a validation loss that overflowed is told as the largest number. */
function finite(result: ValidationResult): ValidationResult {
  return Number.isFinite(result.valid_loss) ? result : { ...result, valid_loss: Number.MAX_VALUE };
}

/** Names bytes, because who reads it has to decide between a smaller job and a larger device. */
class NoRoomError extends Error {
  override readonly name = "NoRoomError";

  constructor({ tokens, stepBytes, availableBytes, recompute }: MemoryPlan, others: number, adapterBytes: number) {
    super(
      `a micro-batch of one sequence of ${tokens} tokens needs ${
        byteText(stepBytes)
      } (recompute: ${recompute}), but the ` +
        `device has ${byteText(availableBytes ?? 0)} for it beside the base model and the adapters of this job and ` +
        `${others} others (${byteText(adapterBytes)})`,
    );
  }
}

function refusal(error: unknown): Omit<FailedEvent, "type" | "job_id" | "epoch"> {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof TlError) {
    if (error.status === "INTERNAL") throw error;
    if (error.status === "OUT_OF_MEMORY") return { blame: "host", code: "out_of_memory", message, param: null };
    return { blame: "host", code: "engine_refused", message, param: null };
  }
  if (error instanceof NoRoomError) return { blame: "host", code: "out_of_memory", message, param: null };
  if (error instanceof CheckpointError) return { blame: "host", code: "bad_checkpoint", message, param: null };
  return { blame: "host", code: "cannot_start", message, param: null };
}
