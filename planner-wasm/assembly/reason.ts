/** Why a job is where it is; the numbers are those of Reason in ../types.ts. */
export const PLACED: i32 = 0;
export const NO_PROFILE: i32 = 1;
export const TOO_LARGE: i32 = 2;
export const NO_DEVICE: i32 = 3;
export const MEMORY: i32 = 4;
export const TOKEN_BUDGET: i32 = 5;
export const SLOWDOWN: i32 = 6;
export const STRIP_COLUMNS: i32 = 7;
