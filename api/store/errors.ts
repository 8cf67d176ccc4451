/** What the store cannot do for its caller. */

/** Every attempt met another writer or a failing database. The request may be sent again. */
export class StoreBusy extends Error {
  override readonly name = "StoreBusy";
  constructor(readonly what: string, readonly attempts: number, cause?: unknown) {
    super(
      `${what} must commit within ${attempts} attempts, but each met another writer or a failing database`,
      cause === undefined ? undefined : { cause },
    );
  }
}

/** The scheduler that writes is no longer the leader. */
export class Deposed extends Error {
  override readonly name = "Deposed";
  constructor(readonly epoch: number) {
    super(`Scheduler writes must carry the newest leader epoch, but ${epoch} has been superseded`);
  }
}

/** The same idempotency key with another body. */
export class IdempotencyMismatch extends Error {
  override readonly name = "IdempotencyMismatch";
  constructor(readonly key: string) {
    super(`An idempotency key must always come with the same request body, but '${key}' came with another one before`);
  }
}
