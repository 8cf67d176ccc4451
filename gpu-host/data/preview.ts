import type { TrainingSpec } from "../../api/schema/job_spec.ts";
import type { ModelFolder } from "../models/catalog.ts";
import { ExampleEncoder } from "./examples.ts";
import { parseRecord } from "./record.ts";
import { TextTokenizer } from "./text_tokenizer.ts";

export interface PreviewToken {
  id: number;
  /** Of the token on its own: a character of several tokens shows as replacement characters. */
  text: string;
  special: boolean;
  /** Whether the token carries a loss. */
  trained: boolean;
}

export interface Preview {
  tokens: PreviewToken[];
  lossTokens: number;
  /** The text with what is trained in 【…】, for people. */
  marked: string;
}

/** What a line of a training file becomes, without a limit on its length. Throws a `DataError` as preparing the file would. */
export async function previewLine(
  model: Pick<ModelFolder, "path">,
  line: string,
  training: Pick<TrainingSpec, "train_on_inputs">,
): Promise<Preview> {
  const tokenizer = await TextTokenizer.fromFolder(model.path);
  const encoder = new ExampleEncoder(tokenizer, { trainOnInputs: training.train_on_inputs });
  const { ids, trained } = encoder.encode(parseRecord(line, 1));
  const tokens = ids.map((id, i): PreviewToken => ({
    id,
    text: tokenizer.tokenText(id),
    special: tokenizer.isSpecial(id),
    // Nothing comes before the first token, so it cannot be predicted.
    trained: i > 0 && trained[i] === 1,
  }));
  let marked = "";
  for (let start = 0; start < ids.length;) {
    let end = start + 1;
    while (end < ids.length && tokens[end]!.trained === tokens[start]!.trained) end++;
    const text = tokenizer.decode(ids.slice(start, end));
    marked += tokens[start]!.trained ? `【${text}】` : text;
    start = end;
  }
  return { tokens, lossTokens: tokens.filter((token) => token.trained).length, marked };
}
