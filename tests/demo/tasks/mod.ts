import { houseDate } from "./house_date.ts";
import { orderJson } from "./order_json.ts";
import { storyCard } from "./story_card.ts";
import { terseUnits } from "./terse_units.ts";
import type { DemoTask } from "./types.ts";

export type { ChatExample, DemoTask, RecommendedSettings } from "./types.ts";

/** Four fine-tuning tasks that the demo base model fails and a small adapter learns. */
export const demoTasks: DemoTask[] = [houseDate, terseUnits, orderJson, storyCard];
