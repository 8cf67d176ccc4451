/** One training or evaluation example: a single user turn and its answer. */
export interface ChatExample {
  messages: [
    { role: "user"; content: string },
    { role: "assistant"; content: string },
  ];
}

/** Settings under which the task was checked to learn (see check_with_peft.py). */
export interface RecommendedSettings {
  trainExamples: number;
  epochs: number;
  rank: number;
  loraAlpha: number;
  batchSize: number;
  learningRate: number;
  /** Share of all steps over which the learning rate rises; it then falls linearly to zero. */
  warmupRatio: number;
}

export interface DemoTask {
  /** Also fit for use as a file or job name: lower case, digits and dashes. */
  name: string;
  description: string;
  recommended: RecommendedSettings;
  /** `n` training examples; the same seed always gives the same examples. */
  train(seed: number, n: number): ChatExample[];
  /** `n` examples, none of which any call of `train` can return. */
  heldOut(seed: number, n: number): ChatExample[];
}
