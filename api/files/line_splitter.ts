/** Cuts a byte stream into lines at LF, whatever the chunks, and never holds more than one line of the allowed length. */

export interface Line {
  /** From 1. */
  number: number;
  /** Without LF and without the CR before it; null when the line is longer than allowed. */
  bytes: Uint8Array | null;
}

const lineFeed = 10;
const carriageReturn = 13;

export class LineSplitter {
  readonly #maxBytes: number;
  #number = 1;
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  #tooLong = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  *push(chunk: Uint8Array): Generator<Line, void, undefined> {
    let start = 0;
    for (let end = chunk.indexOf(lineFeed); end >= 0; end = chunk.indexOf(lineFeed, start)) {
      yield this.#take(chunk.subarray(start, end));
      start = end + 1;
    }
    if (start < chunk.length) this.#hold(chunk.subarray(start));
  }

  /** The last line, where the stream does not end with LF. */
  *finish(): Generator<Line, void, undefined> {
    if (this.#heldBytes > 0 || this.#tooLong) yield this.#take(new Uint8Array(0));
  }

  #hold(piece: Uint8Array): void {
    // One byte more than allowed, because a CR at the end does not count.
    if (this.#tooLong || this.#heldBytes + piece.length > this.#maxBytes + 1) {
      this.#tooLong = true;
      this.#held = [];
      return;
    }
    // A copy: the stream may reuse its buffer.
    this.#held.push(piece.slice());
    this.#heldBytes += piece.length;
  }

  #take(tail: Uint8Array): Line {
    let bytes: Uint8Array | null = null;
    if (!this.#tooLong) {
      const whole = this.#heldBytes === 0 ? tail : join(this.#held, this.#heldBytes, tail);
      const line = whole.at(-1) === carriageReturn ? whole.subarray(0, -1) : whole;
      if (line.length <= this.#maxBytes) bytes = line;
    }
    this.#held = [];
    this.#heldBytes = 0;
    this.#tooLong = false;
    return { number: this.#number++, bytes };
  }
}

function join(pieces: readonly Uint8Array[], bytes: number, tail: Uint8Array): Uint8Array {
  const whole = new Uint8Array(bytes + tail.length);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  whole.set(tail, at);
  return whole;
}
