/** GET /openapi.json: the document of every route above. */

import type { Api } from "./env.ts";

export function addDocument(api: Api): void {
  api.openAPIRegistry.registerComponent("securitySchemes", "key", {
    type: "http",
    scheme: "bearer",
    description: "An API key, `tlora-…`.",
  });
  const config = {
    openapi: "3.1.0",
    info: {
      title: "tLoRA",
      version: "0.1.0",
      description: "LoRA fine-tuning over the files, fine-tuning and models routes that OpenAI's clients speak.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
  };
  // Made once: generating it takes milliseconds, and the routes do not change while the process runs.
  let document: unknown;
  api.get("/openapi.json", (c) => c.json((document ??= api.getOpenAPI31Document(config)) as Record<string, never>));
}
