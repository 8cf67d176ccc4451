/** The engine's part of the identity under which a resume is bit-exact. */

import type { BuildInfo } from "./ffi.ts";
import type { OpenCommand } from "./protocol.ts";

export function engineIdentity(
  info: BuildInfo,
  open: Pick<OpenCommand, "backend" | "device" | "compute" | "model_identity">,
): Record<string, string> {
  const { backend, compute } = open;
  const shared = { build_id: info.build_id, backend, compute, model: open.model_identity };
  if (backend === "cpu") return { ...shared, device: info.cpu.name };
  const device = (info.backends.find(({ name }) => name === backend)?.devices ?? [])
    .find(({ ordinal }, index) => (ordinal ?? index) === open.device);
  // The driver compiles and schedules what runs, and the number of multiprocessors decides how a library cuts its work.
  return {
    ...shared,
    device: device?.name ?? backend,
    multiprocessors: String(device?.multiprocessors ?? "unknown"),
    driver: String(device?.driver ?? "unknown"),
  };
}
