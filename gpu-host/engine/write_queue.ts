/**
 * Files that a job still owes its folder. A full disk delays them; it neither stops training nor leaves half a file.
 */

import { createHash } from "node:crypto";
import type { JobEvent, WrittenFile } from "./protocol.ts";

export interface OwedFile {
  readonly name: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export interface OwedWrite {
  /** Below the job's folder. */
  readonly folder: string;
  readonly files: readonly OwedFile[];
  /** Said once every file is complete. */
  readonly announce: (written: readonly WrittenFile[]) => JobEvent;
  /** `resume`: dropped on an error, the next one is newer. `visible`: retried; a newer one takes its place. `last`: retried. */
  readonly kind: "resume" | "visible" | "last";
  readonly label: string;
}

export interface WriteDependencies {
  readonly makeFolder: (path: string) => Promise<void>;
  readonly writeFile: (path: string, bytes: Uint8Array<ArrayBuffer>) => Promise<void>;
  readonly emit: (event: JobEvent) => void;
  readonly warn: (message: string) => void;
  readonly now: () => number;
}

const RETRY_SECONDS = 5;

export class WriteQueue {
  readonly #folder: string;
  readonly #dependencies: WriteDependencies;
  #owed: OwedWrite[] = [];
  #retryAt: number | undefined;

  constructor(folder: string, dependencies: WriteDependencies) {
    this.#folder = folder;
    this.#dependencies = dependencies;
  }

  get empty(): boolean {
    return this.#owed.length === 0;
  }

  /** When a failed write should be tried again; undefined when none waits. */
  get retryAt(): number | undefined {
    return this.#retryAt;
  }

  async add(write: OwedWrite): Promise<void> {
    if (write.kind !== "resume") {
      // Memory is bound to one owed checkpoint.
      for (const older of this.#owed.filter((owed) => owed.kind === "visible")) {
        this.#dependencies.warn(`${older.label} was given up: it could not be written before the next one`);
      }
      this.#owed = this.#owed.filter((owed) => owed.kind !== "visible");
    }
    this.#owed.push(write);
    await this.flush();
  }

  /** Writes in order until one fails. */
  async flush(): Promise<void> {
    this.#retryAt = undefined;
    while (this.#owed.length > 0) {
      const write = this.#owed[0]!;
      let written: WrittenFile[];
      try {
        written = await this.#write(write);
      } catch (error) {
        const again = write.kind === "resume" ? "" : `; trying again every ${RETRY_SECONDS} s`;
        this.#dependencies.warn(`${write.label} could not be written: ${(error as Error).message}${again}`);
        if (write.kind === "resume") {
          this.#owed.shift();
          continue;
        }
        this.#retryAt = this.#dependencies.now() + RETRY_SECONDS;
        return;
      }
      this.#owed.shift();
      this.#dependencies.emit(write.announce(written));
    }
  }

  async #write(write: OwedWrite): Promise<WrittenFile[]> {
    const folder = `${this.#folder}/${write.folder}`;
    await this.#dependencies.makeFolder(folder);
    const written: WrittenFile[] = [];
    for (const { name, bytes } of write.files) {
      const path = `${folder}/${name}`;
      await this.#dependencies.writeFile(path, bytes);
      written.push({ name, path, sha256: createHash("sha256").update(bytes).digest("hex"), bytes: bytes.length });
    }
    return written;
  }
}
