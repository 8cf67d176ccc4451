export type LogLevel = "info" | "warn" | "error";
export type Log = (level: LogLevel, message: string) => void;

/** One line per message on stderr; stdout belongs to nobody but people. */
export function stderrLog(now: () => number): Log {
  return (level, message) => {
    console.error(`${new Date(now()).toISOString()} ${level.padEnd(5)} ${message.replaceAll("\n", " ")}`);
  };
}
