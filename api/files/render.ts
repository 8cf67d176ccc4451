import { z } from "@hono/zod-openapi";
import { unixSeconds } from "../runtime/clock.ts";
import type { FileRow } from "../store/types.ts";

export const fileSchema = z.object({
  id: z.string(),
  object: z.literal("file"),
  bytes: z.int(),
  created_at: z.int().openapi({ description: "Unix seconds." }),
  expires_at: z.int().optional(),
  filename: z.string(),
  purpose: z.string(),
  status: z.enum(["uploaded", "processed", "error"]),
  status_details: z.string().nullable(),
  training_data: z.object({
    format: z.string(),
    examples: z.int(),
    longest_line_bytes: z.int(),
    characters: z.int(),
    estimated_tokens: z.int(),
  }).optional().openapi({ description: "What the line check found in a training file." }),
}).openapi("File");

export function renderFile(row: FileRow): z.infer<typeof fileSchema> {
  return {
    id: row.id,
    object: "file",
    bytes: row.blob.bytes,
    created_at: unixSeconds(row.createdAt),
    ...(row.expiresAt === null ? {} : { expires_at: unixSeconds(row.expiresAt) }),
    filename: row.filename,
    purpose: row.purpose,
    status: row.status,
    status_details: row.statusDetails,
    ...(row.data === null ? {} : {
      training_data: {
        format: row.data.format,
        examples: row.data.examples,
        longest_line_bytes: row.data.maxExampleBytes,
        characters: row.data.characters,
        estimated_tokens: row.data.estimatedTokens,
      },
    }),
  };
}
