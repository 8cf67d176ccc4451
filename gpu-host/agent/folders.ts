/** The data folder of an agent. README.md shows it as a tree. */
export class Folders {
  readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  get lock(): string {
    return `${this.root}/agent.lock`;
  }

  get profiles(): string {
    return `${this.root}/profiles.json`;
  }

  get cache(): string {
    return `${this.root}/cache`;
  }

  get blobs(): string {
    return `${this.cache}/blobs`;
  }

  get shards(): string {
    return `${this.cache}/shards`;
  }

  get jobs(): string {
    return `${this.root}/jobs`;
  }

  blob(sha256: string): string {
    return `${this.blobs}/${sha256}`;
  }

  /** One folder per assignment: a later epoch never sees files of an earlier one. */
  job(jobId: string, epoch: number): string {
    if (!/^[A-Za-z0-9_-]{1,128}$/.test(jobId)) {
      throw new Error(`job_id must be 1 to 128 letters, digits, '_' or '-', not ${JSON.stringify(jobId)}`);
    }
    return `${this.jobs}/${jobId}.${epoch}`;
  }

  /** Makes all folders and removes what an earlier run left of its jobs: the control plane assigns them anew. */
  async prepare(): Promise<void> {
    await Deno.mkdir(this.blobs, { recursive: true });
    await Deno.mkdir(this.shards, { recursive: true });
    await Deno.remove(this.jobs, { recursive: true }).catch(ignoreMissing);
    await Deno.mkdir(this.jobs, { recursive: true });
    for await (const entry of Deno.readDir(this.blobs)) {
      if (entry.name.endsWith(".part")) await Deno.remove(`${this.blobs}/${entry.name}`);
    }
  }
}

export function ignoreMissing(error: unknown): void {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}
