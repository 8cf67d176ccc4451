export { deepStrictEqual as assertEquals, ok as assert } from "node:assert/strict";
