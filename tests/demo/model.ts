/** The base model that the repository ships, so that everything runs on a bare machine. */
export const demoModel = {
  id: "base-model",
  folder: new URL("./base-model", import.meta.url).pathname,
};
