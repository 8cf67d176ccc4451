/** One JSON value per line over a byte stream. */

export function encodeLine(value: unknown): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(JSON.stringify(value) + "\n");
}

/** Values in order. A line that is not JSON ends the stream with an error that shows its beginning. */
export async function* readLines(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<unknown> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (line !== "") yield parse(line);
    }
  }
  // A process that is killed in the middle of a line leaves a torn one: it was never a complete message.
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new Error(`expected a line of JSON, got: ${line.slice(0, 200)}`);
  }
}
