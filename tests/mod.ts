/** What crosses rooms: the real service driven from outside. */
export * from "./harness/jobs.ts";
export * from "./harness/service.ts";
