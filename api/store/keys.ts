/** The key space. README.md has it as a table. */

export const keys = {
  tenant: (id: string) => ["tenant", id],
  tenants: () => ["tenant"],
  apiKey: (hash: string) => ["api_key", hash],
  apiKeyOf: (tenantId: string, id: string) => ["api_key_of", tenantId, id],
  apiKeysOf: (tenantId: string) => ["api_key_of", tenantId],
  bootstrapped: () => ["bootstrapped"],

  file: (tenantId: string, id: string) => ["file", tenantId, id],
  filesOf: (tenantId: string) => ["file", tenantId],

  job: (id: string) => ["job", id],
  jobOf: (tenantId: string, id: string) => ["job_of", tenantId, id],
  jobsOf: (tenantId: string) => ["job_of", tenantId],
  activeJob: (id: string) => ["job_active", id],
  activeJobs: () => ["job_active"],
  hostJob: (hostId: string, id: string) => ["job_on", hostId, id],
  hostJobs: (hostId: string) => ["job_on", hostId],
  event: (jobId: string, step: number, n: number) => ["job_event", jobId, step, n],
  events: (jobId: string) => ["job_event", jobId],
  checkpoint: (jobId: string, step: number) => ["job_checkpoint", jobId, step],
  checkpoints: (jobId: string) => ["job_checkpoint", jobId],
  idempotency: (tenantId: string, key: string) => ["idempotency", tenantId, key],

  model: (tenantId: string, id: string) => ["model", tenantId, id],
  modelsOf: (tenantId: string) => ["model", tenantId],
  baseModel: (id: string) => ["base_model", id],
  baseModels: () => ["base_model"],

  host: (id: string) => ["host", id],
  hosts: () => ["host"],
  hostLease: (id: string) => ["host_lease", id],
  hostLeases: () => ["host_lease"],
  hostOffer: (hostId: string, modelId: string) => ["host_offer", hostId, modelId],
  hostOffers: (hostId: string) => ["host_offer", hostId],
  desired: (hostId: string) => ["desired", hostId],
  desiredEngine: (hostId: string, device: number) => ["desired_engine", hostId, device],
  desiredEngines: (hostId: string) => ["desired_engine", hostId],

  blobRef: (sha256: string, kind: string, id: string) => ["blob_ref", sha256, kind, id],
  blobRefs: (sha256: string) => ["blob_ref", sha256],

  leader: () => ["scheduler", "leader"],
  /** Changes only when the leader does, unlike the lease, which every renewal rewrites: safe to check in each commit. */
  fence: () => ["scheduler", "fence"],
  decision: (seq: number) => ["decision", seq],
  decisions: () => ["decision"],
} as const satisfies Record<string, (...parts: never[]) => Deno.KvKey>;
