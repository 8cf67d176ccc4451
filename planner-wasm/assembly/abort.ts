/** Own abort: the module imports nothing, so a failed check can only trap. */
export function abort(_message: usize, _file: usize, _line: u32, _column: u32): void {
  unreachable();
}
