/** The bytes of text that a token of a vocabulary stands for. */
export type Surface = (token: string) => Uint8Array;

/** GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the others follow from U+0100. */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCharCode(printable ? byte : next++), byte);
  }
  return map;
})();

const encoder = new TextEncoder();

/** Throws where a token has a character that stands for no byte. */
export const byteLevelSurface: Surface = (token) =>
  Uint8Array.from(token, (character) => {
    const byte = BYTE_OF_CHARACTER.get(character);
    if (byte === undefined) throw new RangeError(`token ${JSON.stringify(token)} is not in the byte-level alphabet`);
    return byte;
  });

/** SentencePiece: U+2581 stands for a space, `<0x0A>` for a byte that the vocabulary has no character for. */
export const sentencePieceSurface: Surface = (token) => {
  const byte = /^<0x([0-9A-F]{2})>$/.exec(token)?.[1];
  return byte === undefined ? encoder.encode(token.replaceAll("\u2581", " ")) : Uint8Array.of(parseInt(byte, 16));
};
