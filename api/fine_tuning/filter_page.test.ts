import { deepStrictEqual } from "node:assert/strict";
import fc from "fast-check";
import type { Page, PageRequest } from "../store/types.ts";
import { filterPage } from "./filter_page.ts";

type Row = { id: string; kept: boolean };

Deno.test("walking the pages gives every kept row once, in order", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.boolean(), { maxLength: 350 }),
      fc.integer({ min: 1, max: 120 }),
      async (kept, limit) => {
        const rows: Row[] = kept.map((keep, i) => ({ id: `id-${i}`, kept: keep }));
        const list = (page: PageRequest): Promise<Page<Row>> => {
          const start = page.after === undefined ? 0 : rows.findIndex((row) => row.id === page.after) + 1;
          return Promise.resolve({
            data: rows.slice(start, start + page.limit),
            hasMore: start + page.limit < rows.length,
          });
        };
        const seen: string[] = [];
        let after: string | undefined;
        for (let hasMore = true; hasMore;) {
          const page = await filterPage(list, { after, limit }, (row) => row.kept);
          seen.push(...page.data.map((row) => row.id));
          if (page.hasMore) deepStrictEqual(page.data.length, limit);
          hasMore = page.hasMore;
          after = page.data.at(-1)?.id;
        }
        deepStrictEqual(seen, rows.filter((row) => row.kept).map((row) => row.id));
      },
    ),
    { numRuns: 60 },
  );
});
