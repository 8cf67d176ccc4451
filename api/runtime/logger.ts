/** Structured logs: one JSON object per line on stderr, so that stdout stays for what a person asked for. */

import type { Clock } from "./clock.ts";

export type LogLevel = "debug" | "info" | "warn" | "error";
export type Logger = (level: LogLevel, message: string, fields?: Record<string, unknown>) => void;

const severity: Record<LogLevel, number> = { debug: 0, info: 1, warn: 2, error: 3 };

export function createLogger(clock: Clock, least: LogLevel = "info"): Logger {
  return (level, message, fields = {}) => {
    if (severity[level] < severity[least]) return;
    console.error(JSON.stringify({ time: new Date(clock()).toISOString(), level, message, ...fields }));
  };
}

export const silentLogger: Logger = () => {};
