/** The planner's numbers on the job object. Other jobs are counted, never named: they may be another tenant's. */

import { z } from "@hono/zod-openapi";
import { Reason } from "../../planner-wasm/mod.ts";
import { unixSeconds } from "../runtime/clock.ts";
import type { PlanInfo } from "../scheduler/plan_info.ts";
import { policyName } from "../scheduler/planner_config.ts";

const snakeCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

const reasons = Object.keys(Reason).map(snakeCase);
const seconds = z.number().nullable();

export const planSchema = z.object({
  policy: z.string(),
  planned_at: z.int(),
  reason: z.enum(reasons).openapi({ description: "`placed`, or the rule that keeps it waiting." }),
  jobs_ahead: z.int().nullable().openapi({ description: "Waiting jobs that are more urgent; null when it is placed." }),
  urgency: z.number().nullable().openapi({ description: "By the default policy's formula; others may not use it." }),
  alone_step_seconds: seconds.openapi({ description: "Predicted for a step alone on that device." }),
  group_step_seconds: seconds.openapi({ description: "Predicted for a step of its group." }),
  slowdown: z.number().nullable().openapi({ description: "group_step_seconds / alone_step_seconds." }),
  max_slowdown: z.number().openapi({ description: "The bound that the job asked for." }),
  seconds_left: seconds.openapi({ description: "Predicted to its last step at that speed." }),
  group: z.object({
    jobs: z.int(),
    devices: z.int(),
    tokens: z.number().openapi({ description: "Per step and device." }),
    token_budget: z.number().nullable().openapi({ description: "Most that a step should hold: the knee of its cost." }),
    residual_tokens: z.number().nullable().openapi({
      description: "What the budget leaves for further jobs; below 0 where one job alone is above it.",
    }),
    knee_tokens: z.number().nullable().openapi({ description: "Where the cost curve of such sequences bends." }),
    memory_bytes: z.number().nullable(),
    device_memory_bytes: z.number().nullable(),
    residual_bytes: z.number().nullable(),
    residual_seconds: seconds.openapi({ description: "How much longer a step may be before a member's bound is met." }),
    strip_columns: z.int().openapi({ description: "Ranks of all members, each rounded up to 16." }),
    max_strip_columns: z.int().nullable(),
  }).openapi({ description: "The group that it trains in; of the job alone on its best device while it waits." }),
}).openapi("FineTuningJobPlan");

export function renderPlan(info: PlanInfo): z.infer<typeof planSchema> {
  return {
    policy: policyName(info.policy),
    planned_at: unixSeconds(info.plannedAt),
    reason: snakeCase(info.reasonName),
    jobs_ahead: info.waitingAhead,
    urgency: info.urgency,
    alone_step_seconds: info.aloneStepSeconds,
    group_step_seconds: info.groupStepSeconds,
    slowdown: info.slowdown,
    max_slowdown: info.maxSlowdown,
    seconds_left: info.secondsLeft,
    group: {
      jobs: info.members.length,
      devices: info.devices,
      tokens: info.groupTokens,
      token_budget: info.tokenBudget,
      residual_tokens: info.residualTokens,
      knee_tokens: info.kneeTokens,
      memory_bytes: info.groupMemoryBytes,
      device_memory_bytes: info.deviceMemoryBytes,
      residual_bytes: info.residualBytes,
      residual_seconds: info.residualSeconds,
      strip_columns: info.stripColumns,
      max_strip_columns: info.maxStripColumns,
    },
  };
}
