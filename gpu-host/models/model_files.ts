/** The files of a model repository that training reads. Everything else (READMEs, other frameworks' weights) stays where it is. */
const NAMES: ReadonlySet<string> = new Set([
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "model.safetensors.index.json",
]);

const WEIGHTS = /^model(-\d{5}-of-\d{5})?\.safetensors$/;

export function isModelFile(name: string): boolean {
  return NAMES.has(name) || WEIGHTS.test(name);
}

export function isWeightFile(name: string): boolean {
  return WEIGHTS.test(name);
}
